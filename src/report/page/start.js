// Assembles the page, and keeps the selected video in the page's address.

function remember(video, segment) {
  history.replaceState(null, "", `#${video.id}${segment >= 0 ? `/${segment}` : ""}`);
}

function remembered(data) {
  const [id, segment] = location.hash.slice(1).split("/");
  const video = data.videos.find((video) => video.id === id);
  const k = video && segment ? video.from + Number(segment) : -1;
  return { video, segment: video && k >= video.from && k < video.to ? k : -1 };
}

// Keeps the page loading until it is drawn, for programs that print it or take a picture of it: a frame that is never
// finished does so. Returns the function that ends it.
function hold() {
  const frame = make("iframe", { hidden: true });
  document.body.append(frame);
  frame.contentDocument.open();
  return () => {
    frame.contentDocument.close();
    frame.remove();
  };
}

async function start() {
  if (!("DecompressionStream" in window)) throw new Error("this browser is too old: use a version from 2023 or later");
  const data = await load();
  const filters = new Filters(data);
  showOverview(data, filters);
  const view = new VideoView(data, filters);
  const list = new VideoList(data, filters, (video, segment) => view.show(video, segment));
  new LabelMoments(data, filters, (video, segment) => {
    list.select(video, segment);
    $("video").scrollIntoView({ block: "nearest" });
  });
  printWhole(data, filters, view);
  const { video, segment } = remembered(data);
  if (video) {
    list.chosen = video;
    view.show(video, segment);
  }
  filters.set({});
  list.show();
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, select")) return;
    event.preventDefault();
    $("search").focus();
    $("search").select();
  });
  document.documentElement.dataset.ready = "true";
}

const release = hold();
start().catch((error) => {
  $("notes").hidden = false;
  $("notes").textContent = `The page could not be drawn: ${error.message}`;
  throw error;
}).finally(release);
