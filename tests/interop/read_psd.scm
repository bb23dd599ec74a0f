; Writes what GIMP reads from a PSD: one line a layer, top to bottom, groups before their children, and the pixels as PNG files.
; A line holds: depth, name, left, top, width, height, opacity in percent, visible, is a group; fields end in a tab.

(define (write-line port fields)
  (for-each (lambda (field) (display field port) (display "\t" port)) fields)
  (newline port))

; The nine settings: no interlace, level 1, no background, gamma, offset, resolution, time or comment, but colour under alpha 0.
(define (save-png image drawable path)
  (file-png-save2 RUN-NONINTERACTIVE image drawable path path 0 1 0 0 0 0 0 0 1))

(define (describe image item depth folder port)
  (let* ((is-group (= TRUE (car (gimp-item-is-group item))))
         (offsets (gimp-drawable-offsets item)))
    (write-line port
      (list depth (car (gimp-item-get-name item)) (car offsets) (cadr offsets)
            (car (gimp-drawable-width item)) (car (gimp-drawable-height item))
            (car (gimp-layer-get-opacity item)) (car (gimp-item-get-visible item)) (if is-group 1 0)))
    (if is-group
      (describe-all image (vector->list (cadr (gimp-item-get-children item))) (+ depth 1) folder port)
      (let ((path (string-append folder "/" (number->string item) ".png")))
        (write-line port (list "pixels" path))
        (save-png image item path)))))

(define (describe-all image items depth folder port)
  (for-each (lambda (item) (describe image item depth folder port)) items))

(define (read-psd path folder)
  (let* ((image (car (gimp-file-load RUN-NONINTERACTIVE path path)))
         (port (open-output-file (string-append folder "/layers.txt"))))
    (describe-all image (vector->list (cadr (gimp-image-get-layers image))) 0 folder port)
    (close-output-port port))
  (let* ((merged (car (file-psd-load-merged RUN-NONINTERACTIVE path path)))
         (target (string-append folder "/merged.png")))
    (save-png merged (car (gimp-image-get-active-drawable merged)) target)))
