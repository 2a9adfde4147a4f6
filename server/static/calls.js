/* The same request from a shell and from Python, to be copied as it is. */

/**
 * `picture` is { name, type, url }: the file as the user knows it, and where it can be had if the server has it.
 * `options` are those of the query. A key is never written out: it is taken from the variable API_KEY.
 */
export function curlCall(base, picture, options, hasKey) {
  const parts = ["curl", `-H ${quoted(`Content-Type: ${picture.type}`)}`];
  if (hasKey) parts.push('-H "Authorization: Bearer $API_KEY"');
  parts.push(`--data-binary ${quoted(`@${picture.name}`)}`, quoted(`${base}predict?${new URLSearchParams(options)}`));
  const call = parts.join(" \\\n  ");
  return picture.url ? `curl -sO ${quoted(picture.url)}\n${call}` : call;
}

export function pythonCall(base, picture, options, hasKey) {
  const key = hasKey ? ', api_key=os.environ["API_KEY"]' : "";
  const named = Object.entries(options).map(([name, value]) => `, ${name}=${literal(value)}`).join("");
  return [
    ...(hasKey ? ["import os", ""] : []),
    "from clients import Client",
    "",
    `client = Client(${literal(base)}${key})`,
    `prediction = client.predict(${literal(picture.name)}${named})`,
    "print(prediction.boxes, prediction.labels, prediction.scores)",
  ].join("\n");
}

/** For a POSIX shell, which takes everything between single quotes as it is. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** JSON's numbers and strings are Python's as well. */
const literal = (value) => JSON.stringify(value);
