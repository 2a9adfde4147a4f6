/* What the page asks of the server that it came from, and what it says when there is no answer. */

import { sizeText } from "./elements.js";

export const base = new URL(".", location.href).href;

/** `message` is a sentence for a person. `status` is 0 where no answer came, `retryAfterS` what the server asks for. */
export class Refusal extends Error {
  constructor(message, { status = 0, retryAfterS = 0, canRetry = false } = {}) {
    super(message);
    Object.assign(this, { status, retryAfterS, canRetry });
  }
}

let key = "";

/** Kept here and nowhere else: it is gone with the page. */
export const useKey = (text) => { key = text; };
export const hasKey = () => key !== "";

const authorization = () => (key ? { Authorization: `Bearer ${key}` } : {});

/** The loaded models as `/models` describes them. */
export async function models() {
  const reply = await fetch("models", { headers: authorization() }).catch(() => null);
  if (!reply) throw new Refusal(GONE, { canRetry: true });
  if (!reply.ok) throw await refusal(reply);
  return (await reply.json()).models;
}

/** The answer to a picture: its text, the milliseconds from sending to its last byte, and when that was. */
export async function predict(bytes, type, query, signal) {
  const began = performance.now();
  try {
    const reply = await fetch(`predict?${query}`, {
      method: "POST",
      body: bytes,
      headers: { "Content-Type": type.startsWith("image/") ? type : "application/octet-stream", ...authorization() },
      signal,
    });
    if (!reply.ok) throw await refusal(reply);
    const text = await reply.text(), arrived = performance.now();
    return { text, roundTripMs: arrived - began, arrived };
  } catch (error) {
    if (error instanceof Refusal || error.name === "AbortError") throw error;
    throw await silence(bytes.byteLength);
  }
}

export const GONE = "The server does not answer. Is it still running?";
const SENTENCES = { 413: "The picture is too large.", 429: "The server is busy.", 502: GONE, 503: GONE, 504: GONE };

/** Of an answer that is none. A proxy's has no sentence of ours. */
async function refusal(reply) {
  const problem = await reply.json().catch(() => ({}));
  const retryAfterS = Number(reply.headers.get("Retry-After")) || 0;
  let message = problem.detail || SENTENCES[reply.status] || `The server answered ${reply.status}.`;
  if (retryAfterS && !/try again/i.test(message)) message += ` Try again in ${retryAfterS} s.`;
  return new Refusal(message, { status: reply.status, retryAfterS, canRetry: reply.status === 429 || reply.status >= 500 });
}

/** Of no answer at all: the server is gone, or it closed the connection before it had read the picture. */
async function silence(bytes) {
  const isThere = await fetch("health/live").then(() => true, () => false);
  if (!isThere) return new Refusal(GONE, { canRetry: true });
  const message = `The server ended the connection. The picture, ${sizeText(bytes)}, may be larger than it takes.`;
  return new Refusal(message, { canRetry: true });
}
