"use strict";

// Unpacks what report/page.rs packed, and provides functions that create elements and format numbers.

const NO_LABEL = 0xffff;

const $ = (id) => document.getElementById(id);

// Creates an element with attributes, `on...` listeners and children. Texts are inserted as text, because they may
// contain anything.
function make(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

async function unpack(id) {
  const letters = atob($(id).textContent);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const ARRAYS = { u32: Uint32Array, u16: Uint16Array, u8: Uint8Array };

async function load() {
  const facts = JSON.parse(new TextDecoder().decode(await unpack("facts")));
  const bytes = await unpack("columns");
  const data = { facts, labels: facts.labels, top: facts.top, letters: $("pictures").textContent };
  let at = 0;
  for (const [name, kind, length] of facts.columns) {
    data[name] = new ARRAYS[kind](bytes, at, length);
    at += data[name].byteLength;
  }
  data.videos = videosOf(data);
  data.segments = data.segment_start.length;
  data.picture_at = offsets(data.picture_letters);
  data.box_at = offsets(data.picture_boxes);
  return data;
}

function offsets(lengths) {
  const at = new Uint32Array(lengths.length + 1);
  for (let i = 0; i < lengths.length; i++) at[i + 1] = at[i] + lengths[i];
  return at;
}

function videosOf(data) {
  const columns = data.facts.videos;
  let segment = 0, bin = 0, picture = 0;
  return columns.uri.map((uri, index) => {
    const video = { index, uri, searched: uri.toLowerCase() };
    for (const name of ["id", "status", "error_kind", "error_message", "codec", "width", "height", "fps", "seconds",
      "segment_rows", "box_rows", "bin_seconds"]) video[name] = columns[name][index];
    const slash = uri.lastIndexOf("/");
    [video.folder, video.name] = [uri.slice(0, slash + 1), uri.slice(slash + 1)];
    [video.from, video.to] = [segment, (segment += columns.segments[index])];
    [video.binsFrom, video.binsTo] = [bin, (bin += columns.bins[index])];
    [video.picturesFrom, video.picturesTo] = [picture, (picture += columns.pictures[index])];
    // Start times are packed as differences.
    for (let k = video.from + 1; k < video.to; k++) data.segment_start[k] += data.segment_start[k - 1];
    const last = video.to > video.from ? startOf(data, video.to - 1) + data.segment_length[video.to - 1] / 1000 : 0;
    video.length = Math.max(video.seconds, last, 0.04);
    return video;
  });
}

const startOf = (data, k) => data.segment_start[k] / 1000;
const endOf = (data, k) => (data.segment_start[k] + data.segment_length[k]) / 1000;

// The labels of a segment with their scores, best first.
function topOf(data, k) {
  const top = [];
  for (let rank = 0; rank < data.top; rank++) {
    const label = data.segment_label[rank * data.segments + k];
    if (label !== NO_LABEL) top.push({ label, name: data.labels[label], score: data.segment_score[rank * data.segments + k] / 1000 });
  }
  return top;
}

// The segment's score for a label, or its best score if the label is -1. Below 0 if it has none.
function scoreOf(data, k, label) {
  if (label < 0) return data.segment_label[k] === NO_LABEL ? -1 : data.segment_score[k] / 1000;
  for (let rank = 0; rank < data.top; rank++) {
    const at = rank * data.segments + k;
    if (data.segment_label[at] === label) return data.segment_score[at] / 1000;
  }
  return -1;
}

function pictureOf(data, p) {
  const boxes = [];
  for (let b = data.box_at[p]; b < data.box_at[p + 1]; b++) {
    const [left, top, right, bottom] = data.box_corners.subarray(4 * b, 4 * b + 4);
    const parts = [score(data.box_score[b] / 1000)];
    // If every box is a person, the label is omitted.
    if (data.facts.classes?.length > 1) parts.unshift(data.labels[data.box_label[b]]);
    if (data.box_action[b] !== NO_LABEL) parts.push(`· ${data.labels[data.box_action[b]]} ${score(data.box_action_score[b] / 1000)}`);
    const track = data.box_track[b];
    if (track) parts.unshift(`#${track}`);
    const colours = data.facts.track_colours;
    const [fill, ink] = track ? colours[(track - 1) % colours.length] : [];
    boxes.push({ left, top, right, bottom, fill, ink, text: parts.join(" ") });
  }
  const letters = data.letters.slice(data.picture_at[p], data.picture_at[p + 1]);
  return {
    seconds: data.picture_time[p] / 1000,
    ratio: data.picture_width[p] / data.picture_height[p],
    url: `data:image/jpeg;base64,${letters}`,
    boxes,
  };
}

// An image with its boxes. `named` adds their labels.
function pictured(picture, named) {
  const text = `Frame at ${time(picture.seconds, 1)}, ${counted(picture.boxes.length, "box", "boxes")}`;
  const frame = make("span", { class: "picture" }, make("img", { src: picture.url, alt: text, draggable: "false" }));
  frame.style.aspectRatio = String(picture.ratio);
  const overlay = draw("svg", { viewBox: "0 0 10000 10000", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const { left, top, right, bottom, fill, ink, text } of picture.boxes) {
    const rect = draw("rect", { x: left, y: top, width: right - left, height: bottom - top }, draw("title", {}, text));
    if (fill) rect.style.stroke = fill;
    overlay.append(rect);
    if (named) {
      const tag = make("span", { class: "tag", "aria-hidden": "true" }, text);
      // Place the tag inside the box if there is no room above it.
      tag.style.left = `${left / 100}%`;
      tag.style.top = `${top / 100}%`;
      tag.classList.toggle("inside", top < 700);
      if (fill) Object.assign(tag.style, { background: fill, color: ink });
      frame.append(tag);
    }
  }
  frame.append(overlay);
  return frame;
}

const NUMBER = new Intl.NumberFormat("en");
const number = (value) => NUMBER.format(value);
const score = (value) => (value > 0 && value < 0.01 ? value.toFixed(3) : value.toFixed(2));
const counted = (count, one, many) => `${number(count)} ${count === 1 ? one : many ?? `${one}s`}`;

// 1:02:03, or 2:03.4 with one decimal.
function time(seconds, decimals = 0) {
  const unit = 10 ** decimals;
  const whole = Math.round(seconds * unit);
  const [h, m, s] = [Math.floor(whole / unit / 3600), Math.floor(whole / unit / 60) % 60, (whole % (60 * unit)) / unit];
  const padded = s.toFixed(decimals).padStart(decimals ? 3 + decimals : 2, "0");
  return h ? `${h}:${String(m).padStart(2, "0")}:${padded}` : `${m}:${padded}`;
}

// 3.2 h, 12 min, 48 s
function span(seconds) {
  const [size, unit] = seconds >= 5400 ? [3600, "h"] : seconds >= 120 ? [60, "min"] : [1, "s"];
  return `${number(Math.round((seconds / size) * 10) / 10)}\u00a0${unit}`;
}

const moment = (iso) => new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" }) + " UTC";
