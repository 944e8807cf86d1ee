"""The page of a 3D view: a z-buffer in a canvas. It needs no GPU, no library and no network.

The camera, the light and the colours are those of `ibllm_tools.media.draw_shape`, so the first view is the thumbnail's.
It is drawn when something changes, and not all the time. ``CONTENT`` stands for a JSON object of numbers.
"""

PAGE = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<style>
html, body { margin: 0; height: 100%; overflow: hidden; }
canvas { display: block; width: 100%; height: 100%; cursor: grab; touch-action: none; }
</style>
<canvas tabindex="0"></canvas>
<script>
"use strict";
const content = CONTENT;
const bytes = Uint8Array.from(atob(content.data), (letter) => letter.charCodeAt(0));
const place = Float32Array.from(new Uint16Array(bytes.buffer), (step) => step / 65535 - 0.5);
const count = place.length / 3;
const canvas = document.querySelector("canvas");
const context = canvas.getContext("2d");
let [turn, tilt] = content.view, zoom = 1, asked = false;

let reach = 1e-6, low = Infinity, high = -Infinity;
for (let i = 0; i < place.length; i += 3) {
  reach = Math.max(reach, Math.hypot(place[i], place[i + 1], place[i + 2]));
  low = Math.min(low, place[i + 1]);
  high = Math.max(high, place[i + 1]);
}

function colourAtHeight(y) {
  const at = (high > low ? (y - low) / (high - low) : 0) * (content.scale.length - 1);
  const knot = Math.min(Math.floor(at), content.scale.length - 2), part = at - knot;
  return content.scale[knot].map((from, i) => from + part * (content.scale[knot + 1][i] - from));
}

function lit(colour, x, y, z) { // a normal in the picture: x right, y down, z away
  const length = Math.hypot(x, y, z) || 1, side = z > 0 ? -1 : 1;
  const nx = side * x / length, ny = -side * y / length, nz = -side * z / length;
  const [ground, sky, sun] = content.shine, [lx, ly, lz] = content.light;
  const light = ground + (sky - ground) * (ny + 1) / 2 + sun * Math.max(nx * lx + ny * ly + nz * lz, 0);
  return packed(colour[0] * light, colour[1] * light, colour[2] * light);
}

function packed(red, green, blue) {
  return (255 << 24 | Math.min(blue, 255) << 16 | Math.min(green, 255) << 8 | Math.min(red, 255)) >>> 0;
}

function draw() {
  asked = false;
  const ratio = Math.min(devicePixelRatio || 1, 2);
  const width = Math.max(Math.round(canvas.clientWidth * ratio), 1);
  const height = Math.max(Math.round(canvas.clientHeight * ratio), 1);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const picture = context.createImageData(width, height);
  const buffer = { width, height, pixels: new Uint32Array(picture.data.buffer),
                   depth: new Float32Array(width * height).fill(Infinity) };
  buffer.pixels.fill(packed(...content.paper));
  const scale = 0.47 * zoom * Math.min(width, height) / reach;
  const seen = placed(scale, width / 2, height / 2);
  if (content.solid) drawFaces(seen, buffer);
  else drawPoints(seen, buffer, zoom * Math.min(width, height));
  context.putImageData(picture, 0, 0);
}

function placed(scale, middleX, middleY) {
  const seen = new Float32Array(place.length);
  const ct = Math.cos(turn), st = Math.sin(turn), ci = Math.cos(tilt), si = Math.sin(tilt);
  for (let i = 0; i < place.length; i += 3) {
    const x = ct * place[i] + st * place[i + 2], z = -st * place[i] + ct * place[i + 2], y = place[i + 1];
    seen[i] = middleX + scale * x;
    seen[i + 1] = middleY - scale * (ci * y - si * z);
    seen[i + 2] = -scale * (si * y + ci * z);
  }
  return seen;
}

function drawFaces(seen, { width, height, pixels, depth }) {
  for (let i = 0; i < seen.length; i += 9) {
    const ax = seen[i], ay = seen[i + 1], az = seen[i + 2];
    const bx = seen[i + 3] - ax, by = seen[i + 4] - ay, bz = seen[i + 5] - az;
    const cx = seen[i + 6] - ax, cy = seen[i + 7] - ay, cz = seen[i + 8] - az;
    const area = bx * cy - by * cx;
    if (area === 0) continue;
    const colour = lit(content.clay, by * cz - bz * cy, bz * cx - bx * cz, area);
    const left = Math.max(Math.ceil(ax + Math.min(0, bx, cx) - 0.5), 0);
    const right = Math.min(Math.floor(ax + Math.max(0, bx, cx) - 0.5), width - 1);
    const top = Math.max(Math.ceil(ay + Math.min(0, by, cy) - 0.5), 0);
    const bottom = Math.min(Math.floor(ay + Math.max(0, by, cy) - 0.5), height - 1);
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const px = x + 0.5 - ax, py = y + 0.5 - ay;
        const b = (px * cy - py * cx) / area, c = (py * bx - px * by) / area;
        if (b < 0 || c < 0 || b + c > 1) continue;
        const at = y * width + x, z = az + b * bz + c * cz;
        if (z < depth[at]) { depth[at] = z; pixels[at] = colour; }
      }
    }
  }
}

function drawPoints(seen, { width, height, pixels, depth }, side) {
  const radius = Math.min(Math.max(0.35 * side / Math.sqrt(count), 1.2), 0.022 * side), reach = Math.floor(radius);
  for (let i = 0; i < seen.length; i += 3) {
    const column = Math.floor(seen[i]), row = Math.floor(seen[i + 1]), colour = colourAtHeight(place[i + 1]);
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const bulge = radius * radius - dx * dx - dy * dy, x = column + dx, y = row + dy;
        if (bulge <= 0 || x < 0 || y < 0 || x >= width || y >= height) continue;
        const at = y * width + x, up = Math.sqrt(bulge), z = seen[i + 2] - up;
        if (z < depth[at]) { depth[at] = z; pixels[at] = lit(colour, dx, dy, -up); }
      }
    }
  }
}

function ask() {
  if (!asked) { asked = true; requestAnimationFrame(draw); }
}

function move(byTurn, byTilt) {
  turn += byTurn;
  tilt = Math.min(Math.max(tilt + byTilt, -Math.PI / 2), Math.PI / 2);
  ask();
}

canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
canvas.addEventListener("pointermove", (event) => {
  if (event.buttons) move(event.movementX / 100, event.movementY / 100);
});
canvas.addEventListener("wheel", (event) => {
  if (document.activeElement !== canvas || !document.hasFocus()) return; // the notebook scrolls, unless it was clicked
  event.preventDefault();
  zoom = Math.min(Math.max(zoom * Math.exp(-event.deltaY / 500), 0.3), 8);
  ask();
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
  if (steps) { event.preventDefault(); move(...steps); }
});
new ResizeObserver(ask).observe(canvas);
ask();
</script>
"""
