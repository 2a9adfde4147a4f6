/* The demo page: a picture goes to this server once; everything else happens here, on its answer. */

import { asked, choose, chosenObject, filtered, neighbour, pointAt, recoloured, showCalls, showJson } from "./answer.js";
import { composed, decoded, release } from "./drawing.js";
import { $, copy, save } from "./elements.js";
import { listen } from "./gestures.js";
import { emptyPanel, showDrawn, showTimes } from "./panel.js";
import { Scene } from "./scene.js";
import { GONE, models, predict, Refusal } from "./server.js";
import { arrange, fit, look, moved, redraw, stage, view } from "./stage.js";
import { refused, say } from "./status.js";

const WELCOME = $("status").textContent;

let loaded = [];
let bytes = null; // of the picture's file
let answerText = "";
let sending = new AbortController();


// From a picture to an answer


/** Ends what is under way. The signal is aborted when something else begins. */
function begin() {
  sending.abort();
  sending = new AbortController();
  $("stage").classList.remove("busy");
  say("Reading the picture …");
  return sending.signal;
}

/** A File, or a Blob with the address that it came from. */
async function take(blob, name, url = "") {
  const signal = begin();
  const read = await blob.arrayBuffer().catch(() => null);
  if (signal.aborted) return;
  if (!read) return say("This file cannot be read. A folder cannot be sent.", true);
  bytes = read;
  asked.file = { name, type: blob.type || "application/octet-stream", url };
  await ask(decoded(blob));
}

/** Sends the picture that is there, and meanwhile shows it: `decoding` where it is another than before. */
async function ask(decoding = stage.picture) {
  const signal = begin();
  $("stage").classList.add("busy");
  say("Looking …");
  const asking = predict(bytes, asked.file.type, query(), signal);
  asking.catch(() => {}); // a refusal that comes before the picture is told after it
  try {
    const picture = await decoding;
    if (!signal.aborted) forget(picture);
    const answer = await asking;
    if (!signal.aborted) show(answer);
  } catch (error) {
    if (!signal.aborted) refused(error, () => ask(), meet);
  } finally {
    if (!signal.aborted) $("stage").classList.remove("busy");
  }
}

/** All that the model finds, so that the threshold needs no other request. */
function query() {
  return new URLSearchParams({ score_threshold: model()?.score_threshold ?? 0, ...asked.model });
}

/** The last answer is of another picture or another model. */
function forget(picture) {
  if (picture !== stage.picture) release(stage.picture);
  stage.picture = picture;
  stage.scene = stage.marked = null;
  emptyPanel();
  $("view").setAttribute("aria-label", asked.file.name);
  arrange();
  showCalls();
}

function show({ text, roundTripMs, arrived }) {
  const { images, timings_ms: timings } = JSON.parse(text);
  const scene = new Scene(images[0]), { picture } = stage;
  // Masks on a picture that the browser reads otherwise than the server would be wrong.
  if (picture?.width !== scene.width || picture?.height !== scene.height) stage.picture = null;
  stage.scene = scene;
  answerText = text;
  $("by-class").checked = scene.byClass;
  $("json-size").textContent = `${(text.length / 1e3).toFixed(0)} kB`;
  $("json").hidden = $("found").inert = false;
  recoloured();
  showTimes(timings, roundTripMs);
  showJson(text);
  arrange();
  // The second frame begins when the first one has been drawn.
  requestAnimationFrame(() => requestAnimationFrame(() => showDrawn(performance.now() - arrived)));
}


// Models


const model = () => loaded[$("model").selectedIndex];

/** Asks the server which models it has, at the start and with another key; then for the picture that waits for them. */
async function meet() {
  try {
    loaded = await models();
  } catch (error) {
    return refused(error, meet, meet);
  }
  $("model").replaceChildren(...loaded.map(({ name, version }) => new Option(`${name} ${version}`)));
  $("model").selectedIndex = Math.max(0, loaded.findIndex(({ name }) => name === "default"));
  $("models").hidden = loaded.length < 2;
  $("only-model").textContent = loaded.length === 1 ? `${loaded[0].name} ${loaded[0].version}` : "";
  if (!loaded.length) return say("No model is loaded.", true);
  useModel();
  if (bytes) ask();
  else say(WELCOME);
}

function useModel() {
  const { name, version, score_threshold: least, default_score_threshold: usual } = model();
  asked.model = loaded.length > 1 ? { model: name, version } : {};
  $("threshold").min = Math.floor(100 * least) / 100; // its steps are counted from there
  $("threshold").value = usual;
  filtered();
}


// What people do


function takeFirst(files) {
  const picture = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (picture) take(picture, picture.name || "picture.png");
}

async function takeSample({ currentTarget: { dataset } }) {
  const signal = begin();
  const { href } = new URL(`static/${dataset.sample}`, location.href);
  const sample = await fetch(href, { signal }).then((reply) => (reply.ok ? reply.blob() : null), () => null);
  if (signal.aborted) return;
  if (sample) take(sample, dataset.sample, href);
  else refused(new Refusal(GONE), null, meet);
}

async function savePicture() {
  save(await composed(stage.picture, stage.scene, look()), `${asked.file.name.replace(/\.\w+$/, "")}-objects.png`);
}

/** `button` says for a moment that it has done so. */
async function copyTo(button, text) {
  await copy(text);
  button.firstChild.textContent = "Copied";
  setTimeout(() => { button.firstChild.textContent = "Copy"; }, 1500);
}

/** Chosen on the picture or in the list. */
function enlarge(object) {
  if (!object) return;
  view.show(object.box);
  moved();
}

const objectAt = (place) => {
  const { x, y } = view.toPicture(place);
  return stage.scene?.at(x, y) ?? null;
};

const objectOf = ({ target }) => stage.scene.objects[target.closest("[role=option]")?.id.replace("object-", "")] ?? null;

function letGo() {
  if (!stage.scene) return;
  if (chosenObject()) return choose(null);
  view.fit();
  moved();
}

const LIST_KEYS = {
  ArrowDown: () => choose(neighbour(1)),
  ArrowUp: () => choose(neighbour(-1)),
  PageDown: () => choose(neighbour(10)),
  PageUp: () => choose(neighbour(-10)),
  Home: () => choose(neighbour(-Infinity)),
  End: () => choose(neighbour(Infinity)),
  Enter: () => enlarge(chosenObject()),
};

function listKey(event) {
  const act = LIST_KEYS[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
}

function zoomBy(factor) {
  view.zoom(factor);
  moved();
}

function switchClasses(isShown) {
  const { scene } = stage;
  scene.hidden = new Set(isShown ? [] : scene.classes.map(({ id }) => id));
  recoloured();
}


// Wires


$("file").addEventListener("change", ({ target }) => {
  takeFirst(target.files);
  target.value = ""; // so that the same file can be chosen again
});
for (const button of document.querySelectorAll("[data-sample]")) button.addEventListener("click", takeSample);
document.addEventListener("paste", ({ clipboardData }) => takeFirst(clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("stage").classList.add("over");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) $("stage").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  if (event.dataTransfer.files.length) takeFirst(event.dataTransfer.files);
  else say("Drop a picture file.", true);
});
document.addEventListener("keydown", ({ key }) => { if (key === "Escape") letGo(); });

$("model").addEventListener("change", () => {
  useModel();
  if (bytes) ask();
});
$("threshold").addEventListener("input", filtered);
for (const id of ["masks", "boxes", "labels"]) $(id).addEventListener("change", () => redraw("objects"));
$("by-class").addEventListener("change", recoloured);
$("all").addEventListener("click", () => switchClasses(true));
$("none").addEventListener("click", () => switchClasses(false));

listen($("view"), view, {
  moved,
  over: (place) => pointAt(place && objectAt(place)),
  picked: (place) => stage.scene && choose(objectAt(place)),
});
$("objects").addEventListener("keydown", listKey);
$("objects").addEventListener("click", (event) => choose(objectOf(event)));
$("objects").addEventListener("dblclick", (event) => enlarge(objectOf(event)));
$("objects").addEventListener("pointerover", (event) => pointAt(objectOf(event)));
$("objects").addEventListener("pointerleave", () => pointAt(null));
$("closer").addEventListener("click", () => zoomBy(1.5));
$("farther").addEventListener("click", () => zoomBy(1 / 1.5));
$("fit").addEventListener("click", () => { view.fit(); moved(); });
$("save").addEventListener("click", savePicture);

$("copy-curl").addEventListener("click", ({ currentTarget }) => copyTo(currentTarget, $("curl").textContent));
$("copy-python").addEventListener("click", ({ currentTarget }) => copyTo(currentTarget, $("python").textContent));
$("copy-json").addEventListener("click", ({ currentTarget }) => copyTo(currentTarget, answerText));
$("save-json").addEventListener("click", () => save(new Blob([answerText], { type: "application/json" }), "answer.json"));
$("json").addEventListener("toggle", () => showJson(answerText));

new ResizeObserver(fit).observe($("stage"));
showCalls();
meet();
