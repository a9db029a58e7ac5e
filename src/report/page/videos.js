// The list of videos: filtered, sorted, and rendered only for the visible rows.

const ROW_HEIGHT = 60;
const ROWS_AROUND = 4;

class Filters {
  constructor(data) {
    this.data = data;
    this.value = { text: "", state: "", label: -1, score: 0, sort: "name" };
    this.listeners = [];
    // The score that came with the label, null if the user chose another.
    this.usual = null;
    // What the filters find, null if they have changed since.
    this.found = null;
    this.fill();
    const inputs = { search: "text", state: "state", label: "label", score: "score", sort: "sort" };
    for (const [id, name] of Object.entries(inputs)) {
      $(id).addEventListener("input", () => this.set({ [name]: ["label", "score"].includes(name) ? Number($(id).value) : $(id).value }));
    }
    $("clear").addEventListener("click", () => this.set({ text: "", state: "", label: -1, score: 0 }));
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.set({ text: "" });
      if (event.key === "ArrowDown" || event.key === "Enter") { $("list").focus(); event.preventDefault(); }
    });
  }

  fill() {
    const { data } = this;
    const option = (value, text) => make("option", { value }, text);
    const [statuses, kinds] = [new Map(), new Map()];
    for (const video of data.videos) {
      statuses.set(video.status, (statuses.get(video.status) ?? 0) + 1);
      if (video.error_kind) kinds.set(video.error_kind, (kinds.get(video.error_kind) ?? 0) + 1);
    }
    $("state").append(option("", "all"));
    for (const [status, count] of [...statuses].sort()) $("state").append(option(`status:${status}`, `${status} (${number(count)})`));
    if (kinds.size) {
      $("state").append(make("optgroup", { label: "error" },
        ...[...kinds].sort().map(([kind, count]) => option(`kind:${kind}`, `${kind} (${number(count)})`))));
    }
    const seen = new Set(data.segment_label);
    seen.delete(NO_LABEL);
    const labels = [...seen].map((label) => [data.labels[label], label]).sort((a, b) => a[0].localeCompare(b[0]));
    $("label").append(option(-1, "any"), ...labels.map(([name, label]) => option(label, name)));
    $("label-filter").hidden = $("score-filter").hidden = !seen.size;
    for (const name of ["matches", "score"]) if (!seen.size) $("sort").querySelector(`[value=${name}]`).remove();
  }

  // Changes some of the filters and notifies the listeners. With a label comes a score, unless the user chose one.
  set(change) {
    if ("score" in change) this.usual = null;
    this.found = null;
    const before = this.value.label;
    Object.assign(this.value, change);
    if (this.value.label !== before && (this.value.score === 0 || this.value.score === this.usual)) {
      this.usual = this.value.score = this.value.label < 0 ? 0 : usualScore(this.data, this.value.label);
    }
    const { text, state, label, score: least, sort } = this.value;
    if ($("search").value !== text) $("search").value = text;
    $("state").value = state;
    $("label").value = label;
    $("score").value = least;
    $("score-shown").textContent = least.toFixed(2);
    $("sort").value = sort;
    this.listeners.forEach((listener) => listener());
  }

  get narrowsSegments() {
    return this.value.label >= 0 || this.value.score > 0;
  }

  takesSegment(k) {
    return scoreOf(this.data, k, this.value.label) >= Math.max(this.value.score, 0);
  }

  // The videos that match the filters, in the selected order.
  videos() {
    return (this.found ??= this.find());
  }

  find() {
    const { text, state, label, sort } = this.value;
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const [what, which] = [state.slice(0, state.indexOf(":")), state.slice(state.indexOf(":") + 1)];
    const wanted = this.data.videos.filter((video) => {
      if (what === "status" && video.status !== which) return false;
      if (what === "kind" && video.error_kind !== which) return false;
      if (!words.every((word) => video.searched.includes(word))) return false;
      [video.matches, video.best] = [0, -1];
      for (let k = video.from; k < video.to; k++) {
        const found = scoreOf(this.data, k, label);
        if (found >= Math.max(this.value.score, 0)) video.matches++;
        if (found > video.best) video.best = found;
      }
      return !this.narrowsSegments || video.matches > 0;
    });
    const by = {
      name: (a, b) => (a.uri < b.uri ? -1 : a.uri > b.uri ? 1 : 0),
      matches: (a, b) => b.matches - a.matches,
      score: (a, b) => b.best - a.best,
      seconds: (a, b) => b.seconds - a.seconds,
      boxes: (a, b) => b.box_rows - a.box_rows,
    };
    return wanted.sort((a, b) => by[sort](a, b) || by.name(a, b));
  }
}

class VideoList {
  constructor(data, filters, choose) {
    Object.assign(this, { data, filters, choose, videos: [], chosen: null, rows: new Map() });
    this.list = $("list");
    this.pictured = data.picture_time.length > 0;
    this.list.addEventListener("scroll", () => this.draw(), { passive: true });
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.select(this.videos[Number(row.dataset.position)]);
    });
    new ResizeObserver(() => this.draw()).observe(this.list);
    filters.listeners.push(() => this.refresh());
  }

  refresh() {
    this.videos = this.filters.videos();
    const all = this.data.videos.length;
    $("count").textContent = this.videos.length === all ? number(all) : `${number(this.videos.length)} of ${number(all)}`;
    $("empty").hidden = this.videos.length > 0;
    $("rows").style.height = `${this.videos.length * ROW_HEIGHT}px`;
    this.rows.forEach((row) => row.remove());
    this.rows.clear();
    this.list.scrollTop = 0;
    // The selected video stays selected. If the list no longer contains it, the first one is selected.
    if (!this.videos.includes(this.chosen) && this.videos.length) this.select(this.videos[0]);
    else this.draw();
  }

  select(video, segment = -1) {
    this.chosen = video;
    this.show();
    this.choose(video, segment);
  }

  // Scrolls the selected row into view.
  show() {
    const position = this.videos.indexOf(this.chosen);
    if (position >= 0) {
      const [top, height] = [position * ROW_HEIGHT, this.list.clientHeight];
      if (top < this.list.scrollTop) this.list.scrollTop = top;
      else if (top + ROW_HEIGHT > this.list.scrollTop + height) this.list.scrollTop = top + ROW_HEIGHT - height;
    }
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW_HEIGHT) - ROWS_AROUND);
    const last = Math.min(this.videos.length, Math.ceil((this.list.scrollTop + this.list.clientHeight) / ROW_HEIGHT) + ROWS_AROUND);
    for (const [position, row] of this.rows) {
      if (position < first || position >= last) {
        row.remove();
        this.rows.delete(position);
      }
    }
    for (let position = first; position < last; position++) {
      if (!this.rows.has(position)) {
        const row = this.row(this.videos[position], position);
        this.rows.set(position, row);
        $("rows").append(row);
      }
    }
    let active = "";
    for (const [position, row] of this.rows) {
      const chosen = this.videos[position] === this.chosen;
      row.setAttribute("aria-selected", String(chosen));
      if (chosen) active = row.id;
    }
    if (active) this.list.setAttribute("aria-activedescendant", active);
    else this.list.removeAttribute("aria-activedescendant");
  }

  row(video, position) {
    const { mark, text } = STATUS[video.status] ?? { mark: "·", text: video.status };
    const row = make("div", {
      class: "row", id: `row-${video.index}`, role: "option", "data-position": position,
      "aria-setsize": this.videos.length, "aria-posinset": position + 1,
    });
    row.style.top = `${position * ROW_HEIGHT}px`;
    if (this.pictured) {
      const thumb = make("span", { class: "thumb", "aria-hidden": "true" });
      if (video.picturesTo > video.picturesFrom) {
        const middle = Math.floor((video.picturesFrom + video.picturesTo) / 2);
        thumb.append(make("img", { src: pictureOf(this.data, middle).url, alt: "" }));
      }
      row.append(thumb);
    }
    const facts = [];
    if (video.seconds) facts.push(time(video.seconds));
    if (this.filters.narrowsSegments) facts.push(`${counted(video.matches, "match", "matches")}, best ${score(video.best)}`);
    else if (video.error_kind) facts.push(video.error_kind);
    else facts.push(`${number(video.segment_rows)} segments, ${number(video.box_rows)} boxes`);
    row.append(
      make("span", { class: "about" },
        make("span", { class: "name" }, video.name),
        make("span", { class: "folder" }, video.folder),
        make("span", { class: "facts" }, facts.join(" · "))),
      make("span", { class: `mark ${video.status}`, title: text }, make("span", { "aria-hidden": "true" }, mark), make("span", { class: "unseen" }, text)));
    return row;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW_HEIGHT) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || !this.videos.length) return;
    event.preventDefault();
    const position = this.videos.indexOf(this.chosen) + step;
    this.select(this.videos[Math.max(0, Math.min(this.videos.length - 1, position))]);
  }
}
