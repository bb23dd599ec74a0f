// Prints what ag-psd reads from a PSD as JSON: the layers bottom to top, groups opened, and the merged image; pixels are RGBA in base64.
import { readFileSync } from "node:fs";
import { initializeCanvas, readPsd } from "ag-psd";

const noCanvas = () => {
  throw new Error("there is no canvas here");
};
initializeCanvas(noCanvas, (width, height) => ({ width, height, data: new Uint8ClampedArray(4 * width * height) }));

const base64 = (picture) => Buffer.from(picture.data.buffer, picture.data.byteOffset, picture.data.byteLength).toString("base64");

function describe(layer) {
  const about = { name: layer.name, opacity: layer.opacity, hidden: layer.hidden };
  if (layer.children) return { ...about, children: layer.children.map(describe) };
  const mask = layer.mask && { left: layer.mask.left, top: layer.mask.top, pixels: base64(layer.mask.imageData) };
  return { ...about, left: layer.left, top: layer.top, right: layer.right, bottom: layer.bottom, pixels: base64(layer.imageData), mask };
}

const psd = readPsd(readFileSync(process.argv[2]), { useImageData: true, skipThumbnail: true });
const merged = base64(psd.imageData);
console.log(JSON.stringify({ width: psd.width, height: psd.height, merged, children: psd.children.map(describe) }));
