// One video: its segments on a zoomable timeline, with pictures, boxes and scores.

const LANES = 6;
const LANE = 30;
const STRIP = 62;
const CROWD = 38;
const AXIS = 24;
const SPACE = 8;
// Segments that are narrower than this share a bar.
const BAR_MIN = 2;
const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
// Maximum scale, pixels per second.
const SCALE_MAX = 400;
const MOMENTS = 8;
// Maximum size of the selected segment's picture, pixels.
const PICTURE_WIDTH = 440;
const PICTURE_HEIGHT = 330;

class VideoView {
  constructor(data, filters) {
    Object.assign(this, { data, filters, host: $("video"), video: null, boxes: true });
    filters.listeners.push(() => this.video && this.filtered());
    new ResizeObserver(() => this.video && this.layout()).observe(this.host);
    addEventListener("scroll", () => hideTip(), { passive: true, capture: true });
  }

  show(video, segment = -1) {
    if (this.video === video) {
      if (segment >= 0) this.choose(segment, true);
      return;
    }
    Object.assign(this, { video, zoom: 1, segment: -1 });
    hideTip();
    this.host.replaceChildren(...this.head());
    if (video.to > video.from || video.picturesTo > video.picturesFrom || video.box_rows) {
      this.host.append(this.timeline(), (this.moment = make("div", { class: "moment", role: "region", "aria-label": "The chosen segment" })), (this.best = make("div", { class: "best" })));
      this.filtered();
      this.layout();
      this.choose(segment >= 0 ? segment : this.strongest()[0]?.peak ?? video.from, segment >= 0);
    } else if (video.status === "ok") {
      this.host.append(make("p", { class: "empty" }, "Nothing was detected in this video."));
    }
  }

  head() {
    const { video } = this;
    const status = STATUS[video.status] ?? { mark: "·", text: video.status };
    const facts = [
      video.seconds && time(video.seconds),
      video.width && `${video.width} × ${video.height}`,
      video.fps && `${Math.round(video.fps * 100) / 100} fps`,
      video.codec,
      video.status !== "failed" && this.data.facts.actions_models.length > 0 && counted(video.segment_rows, "segment"),
      video.status !== "failed" && this.data.facts.persons_models.length > 0 && counted(video.box_rows, "box", "boxes"),
    ];
    const head = make("div", { class: "card-head" },
      make("div", { class: "title" },
        make("h2", {}, video.name, " ", make("span", { class: `chip ${video.status}` }, make("span", { "aria-hidden": "true" }, `${status.mark} `), video.status)),
        make("p", { class: "folder" }, video.folder),
        make("p", { class: "quiet" }, facts.filter(Boolean).join(" · "))));
    const error = video.error_kind &&
      make("p", { class: `error ${video.status}` }, make("b", {}, video.error_kind), make("span", { class: "message" }, video.error_message));
    return [head, error].filter(Boolean);
  }

  timeline() {
    const { video, data } = this;
    this.lanes = this.lanesOf();
    this.hasStrip = video.picturesTo > video.picturesFrom;
    this.hasCrowd = video.binsTo > video.binsFrom && video.box_rows > 0;
    this.top = this.hasStrip ? STRIP + SPACE : 0;
    this.crowdTop = this.top + this.lanes.length * LANE + (this.lanes.length ? SPACE : 0);
    this.axisTop = this.crowdTop + (this.hasCrowd ? CROWD + SPACE : 0);
    const height = this.axisTop + AXIS;

    this.names = make("div", { class: "lane-names" });
    this.names.style.height = `${height}px`;
    const place = (element, top, size) => {
      element.style.top = `${top}px`;
      element.style.height = `${size}px`;
      this.names.append(element);
    };
    this.lanes.forEach((label, lane) => place(
      make("button", { type: "button", "data-label": label, title: data.labels[label], onclick: () => this.filters.set({ label: this.filters.value.label === label ? -1 : label }) }, data.labels[label]),
      this.top + lane * LANE, LANE));
    if (this.hasCrowd) {
      let most = 0;
      for (let bin = video.binsFrom; bin < video.binsTo; bin++) most = Math.max(most, data.crowd[bin]);
      this.most = most;
      const people = data.facts.classes?.join() === "person" ? "People" : "Boxes";
      place(make("span", {}, people, make("span", { class: "quiet" }, ` up to ${most}`)), this.crowdTop, CROWD);
    }

    this.strip = make("div", { class: "strip" });
    this.svg = draw("svg", { class: "plot", height, role: "slider", tabindex: "0", "aria-label": "Segments", "aria-orientation": "horizontal", "aria-valuemin": 1 });
    this.inner = make("div", { class: "inner" }, this.strip, this.svg);
    this.inner.style.height = `${height}px`;
    this.scroller = make("div", { class: "scroller" }, this.inner);
    this.scroller.addEventListener("scroll", () => this.redraw(), { passive: true });
    this.scroller.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 200), event.clientX);
    }, { passive: false });
    this.svg.addEventListener("click", (event) => this.choose(this.segmentUnder(event), true));
    this.svg.addEventListener("dblclick", (event) => this.zoomBy(2, event.clientX));
    this.svg.addEventListener("mousemove", (event) => this.tip(event));
    this.svg.addEventListener("mouseleave", hideTip);
    this.svg.addEventListener("keydown", (event) => this.key(event));

    this.range = make("p", { class: "quiet range" });
    const button = (name, text, action) => make("button", { type: "button", "aria-label": name, title: name, onclick: action }, text);
    const tools = make("div", { class: "tools" },
      make("h3", {}, "Timeline"), this.range,
      this.hasStrip && make("label", { class: "check" }, make("input", { type: "checkbox", checked: this.boxes, onchange: (event) => this.showBoxes(event.target.checked) }), "boxes"),
      make("div", { class: "zoom", role: "group", "aria-label": "Zoom" },
        button("Zoom out", "−", () => this.zoomBy(1 / 2)),
        button("Zoom in", "+", () => this.zoomBy(2)),
        button("Show all", "all", () => this.zoomBy(0))));
    this.host.classList.toggle("no-boxes", !this.boxes);
    return make("div", { class: "timeline" }, tools, make("div", { class: "plot-frame" }, this.names, this.scroller));
  }

  // The labels with the highest total score in the video. The label of the filter comes first.
  lanesOf() {
    const { data, video } = this;
    const sums = new Map();
    for (let k = video.from; k < video.to; k++) {
      for (let rank = 0; rank < data.top; rank++) {
        const label = data.segment_label[rank * data.segments + k];
        if (label === NO_LABEL) continue;
        // Squared, so that a label with many low scores does not hide one with few high scores.
        const value = data.segment_score[rank * data.segments + k] ** 2 / 1e6;
        sums.set(label, (sums.get(label) ?? 0) + value);
      }
    }
    const lanes = [...sums].sort((a, b) => b[1] - a[1]).map(([label]) => label);
    const wanted = this.filters.value.label;
    return (lanes.includes(wanted) ? [wanted, ...lanes.filter((label) => label !== wanted)] : lanes).slice(0, LANES);
  }

  showBoxes(shown) {
    this.boxes = shown;
    this.host.classList.toggle("no-boxes", !shown);
  }

  // Called when the filters have changed.
  filtered() {
    if (!this.best?.isConnected) return;
    const lanes = this.lanesOf();
    if (lanes.join() !== this.lanes.join()) {
      this.host.querySelector(".timeline").replaceWith(this.timeline());
      this.layout();
    }
    for (const name of this.names.querySelectorAll("button")) {
      name.setAttribute("aria-pressed", String(Number(name.dataset.label) === this.filters.value.label));
    }
    this.redraw();
    const moments = this.strongest();
    this.best.replaceChildren();
    if (!moments.length) return;
    const { label } = this.filters.value;
    this.best.append(make("h3", {}, label < 0 ? "Strongest moments" : `Strongest moments of ${this.data.labels[label]}`),
      make("ol", {}, ...moments.map(({ label, start, peak, score: value }) => make("li", {},
        make("button", { type: "button", onclick: () => this.choose(peak, true) },
          make("span", { class: "when" }, time(start, 1)),
          make("span", { class: "name" }, this.data.labels[label]),
          make("span", { class: "count" }, score(value)))))));
  }

  strongest() {
    const { label, score: least } = this.filters.value;
    return momentsOf(this.data, this.video, label, least).sort(byStrength).slice(0, MOMENTS);
  }

  // Called when the width of the view or the zoom has changed.
  layout() {
    if (!this.scroller?.isConnected) return;
    this.width = this.scroller.clientWidth;
    this.svg.setAttribute("width", this.width);
    this.inner.style.width = `${Math.round(this.width * this.zoom)}px`;
    this.redraw();
  }

  get scale() {
    return (this.width * this.zoom) / this.video.length;
  }

  x(seconds) {
    return seconds * this.scale - this.scroller.scrollLeft;
  }

  secondsAt(clientX) {
    return (clientX - this.svg.getBoundingClientRect().left + this.scroller.scrollLeft) / this.scale;
  }

  // Zooms by a factor around a point on the screen; 0 shows the whole video.
  zoomBy(factor, clientX) {
    const left = this.svg.getBoundingClientRect().left;
    const chosen = this.segment >= 0 ? this.x(startOf(this.data, this.segment)) : NaN;
    const at = clientX ?? left + (chosen >= 0 && chosen <= this.width ? chosen : this.width / 2);
    const seconds = this.secondsAt(at);
    const most = Math.max(1, (this.video.length * SCALE_MAX) / this.width);
    this.zoom = factor ? Math.min(most, Math.max(1, this.zoom * factor)) : 1;
    this.inner.style.width = `${Math.round(this.width * this.zoom)}px`;
    this.scroller.scrollLeft = seconds * this.scale - (at - left);
    this.redraw();
  }

  redraw() {
    if (!this.svg?.isConnected || !this.width) return;
    const { video, scroller } = this;
    const [from, to] = [scroller.scrollLeft / this.scale, (scroller.scrollLeft + this.width) / this.scale];
    this.range.textContent = `${time(from)} – ${time(Math.min(to, video.length))}`;
    this.svg.replaceChildren();
    this.drawAxis(from, to);
    this.drawSegments(from, to);
    this.drawCrowd(from, to);
    this.drawStrip(from, to);
  }

  drawAxis(from, to) {
    const step = TICKS.find((tick) => tick * this.scale >= 76) ?? 28800;
    for (let n = Math.floor(from / step); n * step <= to; n++) {
      const x = Math.round(this.x(n * step)) + 0.5;
      this.svg.append(draw("line", { class: "grid", x1: x, x2: x, y1: this.top, y2: this.axisTop }));
      const text = draw("text", { class: "tick", x: x + 4, y: this.axisTop + 16 }, time(n * step, step < 1 ? 1 : 0));
      if (x > -60 && x < this.width - 28) this.svg.append(text);
    }
    for (let lane = 0; lane <= this.lanes.length; lane++) {
      const y = this.top + lane * LANE - 0.5;
      if (this.lanes.length) this.svg.append(draw("line", { class: "base", x1: 0, x2: this.width, y1: y, y2: y }));
    }
    if (this.hasCrowd) this.svg.append(draw("line", { class: "base", x1: 0, x2: this.width, y1: this.crowdTop + CROWD - 0.5, y2: this.crowdTop + CROWD - 0.5 }));
  }

  drawSegments(from, to) {
    const { data, video } = this;
    if (this.segment >= 0) {
      const [left, right] = [this.x(startOf(data, this.segment)), this.x(endOf(data, this.segment))];
      this.svg.append(draw("rect", { class: "chosen", x: left, y: this.top, width: Math.max(2, right - left), height: this.axisTop - this.top }));
    }
    // Of several bars on the same pixels, draw the highest.
    const bars = new Map();
    for (let k = this.firstAt(from); k < video.to && startOf(data, k) <= to; k++) {
      const taken = this.filters.takesSegment(k);
      const [left, right] = [this.x(startOf(data, k)), this.x(endOf(data, k))];
      const wide = right - left >= BAR_MIN + 1;
      const column = wide ? left : Math.floor(left / BAR_MIN) * BAR_MIN;
      for (let rank = 0; rank < data.top; rank++) {
        const at = rank * data.segments + k;
        const lane = this.lanes.indexOf(data.segment_label[at]);
        if (lane < 0) continue;
        const key = wide ? `${lane}/${k}` : `${lane}|${column}`;
        const value = data.segment_score[at] / 1000;
        if (bars.has(key) && bars.get(key).value >= value) continue;
        bars.set(key, { k, lane, rank, value, taken, left: column, width: wide ? right - left - 1 : BAR_MIN });
      }
    }
    const { label } = this.filters.value;
    for (const { k, lane, rank, value, taken, left, width } of bars.values()) {
      const height = Math.max(2, value * (LANE - 5));
      const dim = !taken || (label >= 0 && this.lanes[lane] !== label);
      this.svg.append(draw("rect", {
        class: `bar${rank ? " lesser" : ""}${dim ? " dim" : ""}`, "data-segment": k - video.from, rx: Math.min(2, width / 3),
        x: left, width, y: this.top + (lane + 1) * LANE - 1 - height, height,
      }));
    }
  }

  drawCrowd(from, to) {
    if (!this.hasCrowd) return;
    const { data, video } = this;
    const base = this.crowdTop + CROWD - 1;
    for (let bin = Math.floor(from / video.bin_seconds); bin * video.bin_seconds < to; bin++) {
      const count = data.crowd[video.binsFrom + bin];
      if (video.binsFrom + bin >= video.binsTo) break;
      if (!count) continue;
      const [left, right] = [this.x(bin * video.bin_seconds), this.x((bin + 1) * video.bin_seconds)];
      const height = Math.max(2, (count / this.most) * (CROWD - 4));
      this.svg.append(draw("rect", { class: "crowd", x: left, width: Math.max(1, right - left - (right - left > 4 ? 1 : 0)), y: base - height, height }));
    }
  }

  // Draws as many pictures as fit without overlapping.
  drawStrip(from, to) {
    if (!this.hasStrip) return;
    const { data, video } = this;
    const shown = new Map();
    let end = -Infinity;
    for (let p = video.picturesFrom; p < video.picturesTo; p++) {
      const seconds = data.picture_time[p] / 1000;
      const width = ((STRIP - 6) * data.picture_width[p]) / data.picture_height[p];
      const middle = seconds * this.scale;
      const left = Math.max(0, Math.min(middle - width / 2, this.width * this.zoom - width));
      if (left < end + 4) continue;
      end = left + width;
      if (seconds > to + width / this.scale || seconds < from - width / this.scale) continue;
      shown.set(p, { left, width });
    }
    for (const button of [...this.strip.children]) {
      if (!shown.has(Number(button.dataset.picture))) button.remove();
    }
    // The remaining buttons are in the order of time, and new ones go between them: the tab key follows this order.
    let next = this.strip.firstElementChild;
    for (const [p, { left, width }] of shown) {
      let button = next;
      if (Number(next?.dataset.picture) === p) {
        next = next.nextElementSibling;
      } else {
        const picture = pictureOf(data, p);
        button = make("button", { type: "button", "data-picture": p, onclick: () => this.choose(this.segmentAt(picture.seconds), true, p) }, pictured(picture, false));
        this.strip.insertBefore(button, next);
      }
      button.style.left = `${left}px`;
      button.style.width = `${width}px`;
    }
  }

  // The first segment that ends after a time, by binary search: segments are sorted.
  firstAt(seconds) {
    let [low, high] = [this.video.from, this.video.to];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (endOf(this.data, middle) <= seconds) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // Of the segments at a time, the one whose centre is nearest; -1 if there is none.
  segmentAt(seconds) {
    let best = -1;
    const offset = (k) => Math.abs((startOf(this.data, k) + endOf(this.data, k)) / 2 - seconds);
    for (let k = this.firstAt(seconds); k < this.video.to && startOf(this.data, k) <= seconds; k++) {
      if (best < 0 || offset(k) < offset(best)) best = k;
    }
    return best;
  }

  segmentUnder(event) {
    const own = event.target.dataset?.segment;
    return own === undefined ? this.segmentAt(this.secondsAt(event.clientX)) : this.video.from + Number(own);
  }

  tip(event) {
    const seconds = this.secondsAt(event.clientX);
    const k = this.segmentUnder(event);
    if (k < 0) return hideTip();
    const lines = [make("p", { class: "when" }, `${time(startOf(this.data, k), 1)} – ${time(endOf(this.data, k), 1)}`)];
    for (const { name, score: value, label } of topOf(this.data, k)) {
      lines.push(make("p", { class: label === this.filters.value.label ? "wanted" : "" }, make("span", {}, name), make("b", {}, score(value))));
    }
    if (this.hasCrowd) {
      const bin = Math.min(this.video.binsTo - 1, this.video.binsFrom + Math.floor(seconds / this.video.bin_seconds));
      lines.push(make("p", { class: "quiet" }, make("span", {}, "in one frame"), make("span", {}, counted(this.data.crowd[bin], "box", "boxes"))));
    }
    showTip(lines, event.clientX, event.clientY);
  }

  // Selects a segment and shows it large. `picture` is the picture that was clicked, if any.
  choose(k, moves, picture = -1) {
    const { data, video } = this;
    const exists = k >= video.from && k < video.to;
    if (!exists && picture < 0 && !this.hasStrip) return;
    this.segment = exists ? k : -1;
    if (exists && moves) this.reveal(k);
    const seconds = picture >= 0 ? data.picture_time[picture] / 1000 : exists ? (startOf(data, k) + endOf(data, k)) / 2 : 0;
    this.moment.replaceChildren();
    const p = picture >= 0 ? picture : this.pictureNear(seconds);
    if (p >= 0) {
      const shown = pictureOf(data, p);
      const inside = exists && shown.seconds >= startOf(data, k) && shown.seconds < endOf(data, k);
      const caption = `Frame at ${time(shown.seconds, 1)}${inside || !exists ? "" : ", the nearest picture"} · ${counted(shown.boxes.length, "box", "boxes")}`;
      const figure = make("figure", {}, pictured(shown, true), make("figcaption", { class: "quiet" }, caption));
      figure.style.maxWidth = `${Math.min(PICTURE_WIDTH, Math.round(PICTURE_HEIGHT * shown.ratio))}px`;
      this.moment.append(figure);
    }
    if (exists) {
      const top = topOf(data, k);
      const place = data.facts.group > 1 ? "" : `Segment ${number(k - video.from)} · `;
      const rows = top.map(({ name, score: value, label }) => {
        const bar = make("span", { class: "bar", "aria-hidden": "true" });
        bar.style.width = `${value * 100}%`;
        return make("li", { class: label === this.filters.value.label ? "wanted" : "" },
          make("span", { class: "name" }, name), make("span", { class: "track" }, bar), make("span", { class: "count" }, score(value)));
      });
      this.moment.append(make("div", { class: "scores" },
        make("h3", {}, `${place}${time(startOf(data, k), 1)} – ${time(endOf(data, k), 1)}`),
        rows.length ? make("ol", { class: "labels" }, ...rows) : make("p", { class: "quiet" }, "No person was detected, so nobody was scored.")));
      const spoken = top.slice(0, 3).map(({ name, score: value }) => `${name} ${score(value)}`).join(", ");
      this.svg.setAttribute("aria-valuemax", video.to - video.from);
      this.svg.setAttribute("aria-valuenow", k - video.from + 1);
      this.svg.setAttribute("aria-valuetext", `${time(startOf(data, k), 1)} to ${time(endOf(data, k), 1)}: ${spoken || "no label"}`);
    }
    this.redraw();
    remember(video, exists ? k - video.from : -1);
  }

  reveal(k) {
    const [left, right] = [this.x(startOf(this.data, k)), this.x(endOf(this.data, k))];
    if (left < 0 || right > this.width) this.scroller.scrollLeft += (left + right) / 2 - this.width / 2;
  }

  pictureNear(seconds) {
    let best = -1;
    const offset = (p) => Math.abs(this.data.picture_time[p] / 1000 - seconds);
    for (let p = this.video.picturesFrom; p < this.video.picturesTo; p++) if (best < 0 || offset(p) < offset(best)) best = p;
    return best;
  }

  key(event) {
    const { video } = this;
    const count = video.to - video.from;
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -count, End: count };
    const zooms = { "+": 2, "=": 2, "-": 0.5, 0: 0 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps && count) {
      const at = Math.max(this.segment, video.from);
      this.choose(Math.max(video.from, Math.min(video.to - 1, at + steps[event.key])), true);
    } else if (event.key in zooms) this.zoomBy(zooms[event.key]);
    else return;
    event.preventDefault();
  }
}

function showTip(lines, x, y) {
  const tip = $("tip");
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.min(x + 14, innerWidth - width - 8)}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? y - height - 12 : y + 18}px`;
}

function hideTip() {
  $("tip").hidden = true;
}
