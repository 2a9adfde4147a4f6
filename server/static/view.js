/* Where the picture lies on the stage: `scale` pixels of the stage for one of its own, its corner at (x, y). */

const CLOSEST = 16;

export class View {
  constructor() {
    Object.assign(this, { width: 1, height: 1, stageWidth: 1, stageHeight: 1, scale: 1, x: 0, y: 0 });
  }

  get fitting() {
    return Math.min(this.stageWidth / this.width, this.stageHeight / this.height);
  }

  get isZoomed() {
    return this.scale > this.fitting * 1.001;
  }

  /** A picture or a stage of another size; a picture that fitted still does. */
  resize({ width, height }, stageWidth, stageHeight) {
    const stays = this.isZoomed && width === this.width && height === this.height;
    Object.assign(this, { width, height, stageWidth, stageHeight });
    if (stays) this.move(0, 0);
    else this.fit();
  }

  fit() {
    this.scale = this.fitting;
    this.move(0, 0);
  }

  /** Keeps what is at (x, y) of the stage there. */
  zoom(factor, x = this.stageWidth / 2, y = this.stageHeight / 2) {
    const scale = Math.max(this.fitting, Math.min(this.scale * factor, Math.max(CLOSEST, this.fitting)));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.move(0, 0);
  }

  move(dx, dy) {
    this.x = within(this.x + dx, this.width * this.scale, this.stageWidth);
    this.y = within(this.y + dy, this.height * this.scale, this.stageHeight);
  }

  /** Brings a box to the middle, large enough to see. */
  show([x1, y1, x2, y2]) {
    const wanted = 0.4 * Math.min(this.stageWidth / (x2 - x1), this.stageHeight / (y2 - y1));
    this.zoom(wanted / this.scale);
    this.x = this.stageWidth / 2 - ((x1 + x2) / 2) * this.scale;
    this.y = this.stageHeight / 2 - ((y1 + y2) / 2) * this.scale;
    this.move(0, 0);
  }

  toPicture({ x, y }) {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }
}

/** A length on the stage: in its middle where it is the shorter one, else without a gap at either end. */
function within(start, length, stage) {
  return length <= stage ? (stage - length) / 2 : Math.min(0, Math.max(stage - length, start));
}
