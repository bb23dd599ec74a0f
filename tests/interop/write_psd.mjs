// Writes a PSD with ag-psd from raw RGBA files, for the benchmark of writers; prints the seconds of the writing as JSON.
// Usage: node write_psd.mjs layers.json target.psd
import { readFileSync, writeFileSync } from "node:fs";
import { writePsdUint8Array } from "ag-psd";

const { width, height, layers, merged } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const picture = ({ path, width, height }) => ({ width, height, data: new Uint8ClampedArray(readFileSync(path).buffer) });
const children = layers.map((layer) => ({ name: layer.name, left: layer.left, top: layer.top, imageData: picture(layer) }));
const psd = { width, height, imageData: picture(merged), children };

const start = process.hrtime.bigint();
const before = process.cpuUsage();
writeFileSync(process.argv[3], writePsdUint8Array(psd, { noBackground: true }));
const used = process.cpuUsage(before);
console.log(JSON.stringify({ wall: Number(process.hrtime.bigint() - start) / 1e9, cpu: (used.user + used.system) / 1e6 }));
