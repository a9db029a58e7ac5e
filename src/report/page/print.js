// What is printed: the list as a table, because on the screen only the visible rows exist, and the timeline as wide as paper.

const PRINTED_MAX = 1000;

function printWhole(data, filters, view) {
  addEventListener("beforeprint", () => {
    const videos = filters.videos();
    const cells = (tag, texts) => make("tr", {}, ...texts.map((text) => make(tag, {}, text)));
    const rows = videos.slice(0, PRINTED_MAX).map((video) => {
      const best = momentsOf(data, video, filters.value.label, filters.value.score).sort(byStrength)[0];
      const seen = video.error_kind || (best ? `${data.labels[best.label]} ${score(best.score)} at ${time(best.start)}` : "");
      return cells("td", [video.uri, video.status, time(video.seconds), number(video.segment_rows), number(video.box_rows), seen]);
    });
    const more = videos.length > rows.length ? `The first ${number(rows.length)} of ${counted(videos.length, "video")}.` : "";
    $("printed").replaceChildren(make("caption", {}, `Videos. ${more}`),
      make("thead", {}, cells("th", ["Video", "Status", "Length", "Segments", "Boxes", "Strongest, or error"])),
      make("tbody", {}, ...rows));
    document.querySelectorAll(".failure").forEach((failure) => failure.setAttribute("open", ""));
    document.body.classList.add("printing");
    view.layout();
  });
  addEventListener("afterprint", () => {
    $("printed").replaceChildren();
    document.body.classList.remove("printing");
    view.layout();
  });
}
