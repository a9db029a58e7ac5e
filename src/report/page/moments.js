// Moments: the segments of a video that have a label and follow each other, joined as `vidindex find` joins them.

// Segments that are less apart belong to one moment, seconds.
const GAP = 1;
// The score from which a label is shown, unless it nowhere reaches it.
const SCORE_USUAL = 0.5;
const MOMENTS_SHOWN = 24;

// The moments of a label in a video. If the label is -1, every segment counts for its best label.
function momentsOf(data, video, label, least) {
  const [moments, last] = [[], new Map()];
  for (let k = video.from; k < video.to; k++) {
    const value = scoreOf(data, k, label);
    if (value < Math.max(least, 0)) continue;
    const own = label < 0 ? data.segment_label[k] : label;
    const [start, end] = [startOf(data, k), endOf(data, k)];
    const moment = last.get(own);
    if (moment && start < moment.end + GAP) {
      moment.end = Math.max(moment.end, end);
      if (value > moment.score) [moment.score, moment.peak] = [value, k];
    } else {
      last.set(own, { video, label: own, start, end, score: value, peak: k });
      moments.push(last.get(own));
    }
  }
  return moments;
}

const byStrength = (a, b) => b.score - a.score || a.video.index - b.video.index || a.start - b.start;

// The score from which a label is shown at first: the usual one, or half of its best score if that is less.
function usualScore(data, label) {
  let best = 0;
  for (let k = 0; k < data.segments; k++) best = Math.max(best, scoreOf(data, k, label));
  return best >= SCORE_USUAL ? SCORE_USUAL : Math.floor(best * 50) / 100;
}

// The card with the moments of the chosen label, in all videos that the filters let through.
class LabelMoments {
  constructor(data, filters, go) {
    Object.assign(this, { data, filters, go, shown: MOMENTS_SHOWN });
    $("more-moments").addEventListener("click", () => {
      this.shown *= 4;
      this.draw();
    });
    filters.listeners.push(() => this.refresh());
  }

  refresh() {
    const { label, score: least } = this.filters.value;
    $("moments").hidden = label < 0;
    if (label < 0) return;
    this.moments = this.filters.videos().flatMap((video) => momentsOf(this.data, video, label, least)).sort(byStrength);
    this.shown = MOMENTS_SHOWN;
    const seconds = this.moments.reduce((sum, { start, end }) => sum + end - start, 0);
    const videos = new Set(this.moments.map(({ video }) => video)).size;
    $("moments-title").textContent = `Moments of ${this.data.labels[label]}`;
    $("moments-count").textContent = this.moments.length
      ? `${number(this.moments.length)} in ${counted(videos, "video")}, ${span(seconds)}, with a score of at least ${least.toFixed(2)}`
      : `none with a score of at least ${least.toFixed(2)}`;
    this.draw();
  }

  draw() {
    $("moments-list").replaceChildren(...this.moments.slice(0, this.shown).map((moment) => {
      const { video, start, end, peak, score: value } = moment;
      return make("li", {}, make("button", { type: "button", title: video.uri, onclick: () => this.go(video, peak) },
        make("span", { class: "name" }, video.name),
        make("span", { class: "when" }, `${time(start, 1)} – ${time(end, 1)}`),
        make("span", { class: "count" }, score(value))));
    }));
    $("more-moments").hidden = this.moments.length <= this.shown;
    $("more-moments").textContent = `Show more of ${number(this.moments.length)}`;
  }
}
