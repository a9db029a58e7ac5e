// The run as a whole: its origin, totals, failures and labels.

const STATUS = {
  ok: { mark: "✓", text: "indexed whole" },
  partial: { mark: "◐", text: "indexed in part" },
  failed: { mark: "✕", text: "not indexed" },
};

const KINDS = {
  not_found: "listed, but deleted before it was read",
  changed_during_read: "changed while it was read",
  access_denied: "access was denied",
  archived: "archived: restore it first",
  unreadable: "failed to read",
  encrypted: "encrypted",
  not_a_video: "no known container format",
  no_video_stream: "no video stream",
  corrupt: "damaged",
  unsupported: "no decoder for it",
  too_large: "frames too large",
  timeout: "took too long",
  decoder_crashed: "the decoder crashed",
  out_of_memory: "the decoder ran out of memory",
};

function showOverview(data, filters) {
  const { facts } = data;
  const models = [...facts.actions_models, ...facts.persons_models].join(", ");
  const { planned_at: planned, read_at: read } = facts.run;
  const about = read ? [facts.output, `as of ${moment(read)}`] : [facts.input, moment(planned)];
  $("origin").textContent = [...about, models, `vidindex ${facts.version}`].filter(Boolean).join(" · ");
  showRunState(facts);
  showNotes(data);
  showTotals(data);
  showFailures(data, filters);
  showLabels(data, filters);
}

function showRunState(facts) {
  const { shards, shards_committed: done, read_at: read } = facts.run;
  const missing = !read && shards - done;
  const { videos_partial: partial, videos_failed: failed } = facts.totals;
  const parts = [read ? "current" : missing ? `${done} of ${counted(shards, "shard")} done` : "complete"];
  if (failed) parts.push(`${number(failed)} failed`);
  if (partial) parts.push(`${number(partial)} partial`);
  const state = $("state-of-run");
  state.textContent = parts.join(", ");
  state.classList.add(parts.length > 1 || missing ? "partial" : "ok");
}

function showNotes({ facts, videos, picture_time }) {
  const notes = [];
  if (facts.random_models.length) {
    notes.push(`The weights of ${facts.random_models.join(" and ")} are random, not trained: labels and boxes are meaningless.`);
  }
  const total = videosIn(facts.totals);
  if (videos.length < total) notes.push(`The list holds ${number(videos.length)} of ${number(total)} videos; the totals are of all.`);
  if (facts.group > 1) notes.push(`In the timelines, ${facts.group} segments are one: of each label the highest score.`);
  if (picture_time.length < facts.thumbnails) {
    notes.push(`The page holds ${number(picture_time.length)} of ${number(facts.thumbnails)} pictures; all are in the table thumbnails.`);
  }
  if (facts.lost_parts) notes.push(`${counted(facts.lost_parts, "file")} of its tables are gone: their rows are missing here.`);
  $("notes").hidden = !notes.length;
  $("notes").textContent = notes.join(" ");
}

const videosIn = (totals) => totals.videos_ok + totals.videos_partial + totals.videos_failed;

function showTotals({ facts }) {
  const { totals } = facts;
  const { run } = facts;
  const elapsed = run.finished_at ? (new Date(run.finished_at) - new Date(run.planned_at)) / 1000 : 0;
  const tile = (title, value, ...details) =>
    make("div", { class: "tile" }, make("p", { class: "quiet" }, title), make("p", { class: "value" }, value), ...details);
  const quiet = (text) => make("p", { class: "quiet" }, text);
  const all = videosIn(totals);
  const bar = make("div", { class: "statuses", "aria-hidden": "true" });
  const parts = [["ok", totals.videos_ok], ["partial", totals.videos_partial], ["failed", totals.videos_failed]];
  for (const [status, count] of parts) {
    if (!count) continue;
    const part = make("span", { class: status });
    part.style.flexGrow = String(count / all);
    bar.append(part);
  }
  const summary = parts.filter(([, count]) => count).map(([status, count]) => `${number(count)} ${status}`).join(", ");
  const speed = elapsed > 0 ? totals.video_seconds / elapsed : 0;
  const machines = run.hosts > 1 ? `, ${run.hosts} machines` : "";
  const models = (ids, none) => quiet(ids.length > 1 ? counted(ids.length, "model") : ids[0] ?? none);
  $("totals").append(
    tile("Videos", number(all), bar, quiet(summary || (run.read_at ? "nothing is indexed" : `of ${number(run.videos_planned)} planned`))),
    tile("Playing time", span(totals.video_seconds), quiet(`${number(totals.frames_decoded)} frames decoded`)),
    tile("Segments", number(totals.segments), models(facts.actions_models, "no actions model")),
    tile("Boxes", number(totals.boxes), models(facts.persons_models, "no persons model")),
  );
  if (!run.read_at) $("totals").append(
    tile("Speed", speed ? `${number(Math.round(speed * 10) / 10)}×` : "–", quiet(`real time, in ${span(elapsed)} from plan to last commit${machines}`)),
    tile("Work", span(totals.wall_seconds), quiet(`decoding ${span(totals.decode_seconds)}, models ${span(totals.inference_seconds)}`)),
  );
}

function showFailures({ facts }, filters) {
  const kinds = Object.entries(facts.totals.failures).sort((a, b) => b[1].videos - a[1].videos);
  if (!kinds.length) {
    $("failures").append(make("p", { class: "well" }, make("span", { class: "mark ok", "aria-hidden": "true" }, "✓"), " None: every video was indexed completely."));
    return;
  }
  for (const [kind, { videos, examples }] of kinds) {
    const summary = [KINDS[kind], examples[0]?.message].filter(Boolean).join(": ");
    const list = make("ul", { class: "examples" });
    for (const { uri, message } of examples) {
      list.append(make("li", {}, make("span", { class: "uri" }, uri), make("span", { class: "message" }, message)));
    }
    if (videos > examples.length) list.append(make("li", { class: "quiet" }, `and ${number(videos - examples.length)} more`));
    $("failures").append(make("details", { class: "failure", open: kinds.length === 1 },
      make("summary", {}, make("span", { class: "kind" }, kind), make("span", { class: "quiet" }, summary), make("b", {}, number(videos))),
      list,
      make("button", { type: "button", class: "link", onclick: () => filters.set({ state: `kind:${kind}` }) }, "Show these videos")));
  }
}

const LABELS_SHOWN = 10;

function showLabels(data, filters) {
  const counts = new Map();
  for (let k = 0; k < data.segments; k++) {
    const label = data.segment_label[k];
    if (label !== NO_LABEL) counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  $("labels-card").hidden = !counts.size;
  const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, LABELS_SHOWN);
  for (const [label, count] of most) {
    const bar = make("span", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${(100 * count) / most[0][1]}%`;
    $("labels").append(make("li", {},
      make("button", { type: "button", title: "Show its moments", onclick: () => filters.set({ label }) },
        make("span", { class: "name" }, data.labels[label]),
        make("span", { class: "track" }, bar),
        make("span", { class: "count" }, number(count)), make("span", { class: "unseen" }, " segments"))));
  }
}
