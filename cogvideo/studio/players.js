// Plays the videos of a grid in step, and draws each one's difference to the reference. Runs once, over all that the
// element will show.
const GAIN = 4, LARGEST = 360;
const all = selector => [...element.querySelectorAll(selector)];
const one = selector => element.querySelector(selector);
const scratch = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
let playing = true, last = -1;

const rate = () => Number(one(".players")?.dataset.fps) || 8;
const count = () => Number(one(".players")?.dataset.frames) || 1;
const lead = () => all("video").reduce((a, b) => (a && a.duration >= b.duration ? a : b), null);
const frameOf = video => Math.min(Math.floor(video.currentTime * rate() + 1e-3), count() - 1);

function seek(frame) {
  for (const video of all("video")) video.currentTime = (frame + 0.5) / rate();
}

function play(on) {
  playing = on;
  for (const video of all("video")) on ? video.play().catch(() => {}) : video.pause();
  const button = one(".play");
  if (button) button.textContent = on ? "Pause" : "Play";
}

function pixels(video, width, height) {
  scratch.canvas.width = width;
  scratch.canvas.height = height;
  scratch.drawImage(video, 0, 0, width, height);
  return scratch.getImageData(0, 0, width, height);
}

function draw() {
  const reference = one("figure[data-reference] video");
  if (!reference?.videoWidth) return;
  const share = Math.min(1, LARGEST / Math.max(reference.videoWidth, reference.videoHeight));
  const width = Math.round(reference.videoWidth * share), height = Math.round(reference.videoHeight * share);
  const base = pixels(reference, width, height).data;
  for (const canvas of all("canvas")) {
    const video = canvas.closest("figure").querySelector("video");
    if (!video.videoWidth) continue;
    const image = pixels(video, width, height);
    for (let i = 0; i < base.length; i++)
      image.data[i] = i % 4 === 3 ? 255 : GAIN * Math.abs(image.data[i] - base[i]);
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
}

function show(frame) {
  one(".time").value = frame;
  one(".at").textContent = `frame ${frame + 1} of ${count()}`;
  for (const figure of all("figure[data-db]")) {
    const value = JSON.parse(figure.dataset.db)[frame];
    if (value !== undefined) figure.querySelector(".now").textContent = value === null ? "equal" : `${value.toFixed(1)} dB`;
  }
}

function tick() {
  const video = lead();
  if (video && one(".time")) {
    if (playing && video.ended) { seek(0); play(true); }
    for (const other of all("video")) {
      const apart = Math.abs(other.currentTime - Math.min(video.currentTime, other.duration || 0));
      if (other !== video && apart > 0.6 / rate() && !other.seeking) other.currentTime = video.currentTime;
    }
    const frame = frameOf(video);
    if (frame !== last) { last = frame; show(frame); draw(); }
  }
  requestAnimationFrame(tick);
}

element.addEventListener("click", event => { if (event.target.closest(".play")) play(!playing); });
element.addEventListener("input", event => {
  if (event.target.matches(".time")) { play(false); seek(Number(event.target.value)); }
});
for (const kind of ["seeked", "loadeddata"]) element.addEventListener(kind, draw, true);
watch("value", () => { last = -1; play(true); });
play(true);
tick();
