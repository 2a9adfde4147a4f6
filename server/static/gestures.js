/* Mouse, touch and keys on the picture. A plain wheel is left to the page, which scrolls. */

/** So many pixels of movement make a drag out of a click. */
const STILL = 5;
const STEP = 60;
const KEYS = {
  "+": (view) => view.zoom(1.5),
  "=": (view) => view.zoom(1.5),
  "-": (view) => view.zoom(1 / 1.5),
  0: (view) => view.fit(),
  ArrowLeft: (view) => view.move(STEP, 0),
  ArrowRight: (view) => view.move(-STEP, 0),
  ArrowUp: (view) => view.move(0, STEP),
  ArrowDown: (view) => view.move(0, -STEP),
};

/** Calls `moved()` after the view has changed, `over(place)` and `picked(place)` with a place of the stage or null. */
export function listen(stage, view, { moved, over, picked }) {
  const fingers = new Map();
  let travelled = 0;

  const place = (event) => {
    const { left, top } = stage.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  };

  stage.addEventListener("pointerdown", (event) => {
    if (!fingers.size) travelled = 0;
    fingers.set(event.pointerId, place(event));
    stage.setPointerCapture(event.pointerId);
  });

  stage.addEventListener("pointermove", (event) => {
    const now = place(event), before = fingers.get(event.pointerId);
    if (!before) return over(now);
    const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    travelled += Math.hypot(now.x - before.x, now.y - before.y);
    fingers.set(event.pointerId, now);
    if (others.length) pinch(view, others[0], before, now);
    else if (travelled > STILL) view.move(now.x - before.x, now.y - before.y);
    moved();
  });

  const lift = (event) => {
    const isClick = fingers.size === 1 && travelled <= STILL && event.type === "pointerup";
    fingers.delete(event.pointerId);
    if (isClick) picked(place(event));
  };
  stage.addEventListener("pointerup", lift);
  stage.addEventListener("pointercancel", lift);
  stage.addEventListener("pointerleave", () => over(null));

  stage.addEventListener("dblclick", (event) => {
    const { x, y } = place(event);
    view.zoom(2, x, y);
    moved();
  });

  stage.addEventListener("wheel", (event) => { // with Ctrl, and as browsers report a pinch on a touchpad
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const { x, y } = place(event);
    view.zoom(Math.exp(-event.deltaY / 200), x, y);
    moved();
  }, { passive: false });

  stage.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow") && !view.isZoomed) return; // the page scrolls
    event.preventDefault();
    KEYS[event.key](view);
    moved();
  });
}

/** The picture follows both fingers. */
function pinch(view, still, before, now) {
  const spread = (at) => Math.max(1, Math.hypot(at.x - still.x, at.y - still.y));
  view.zoom(spread(now) / spread(before), (still.x + before.x) / 2, (still.y + before.y) / 2);
  view.move((now.x - before.x) / 2, (now.y - before.y) / 2);
}
