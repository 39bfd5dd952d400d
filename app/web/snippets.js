// The request that the page just made, as code for a shell and for Python.

const inShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
// A file's name for curl, which ends a name without quotes at a comma or semicolon.
const inForm = (name) => `"${name.replace(/[\\"]/g, "\\$&")}"`;
const inPython = (text) => JSON.stringify(text); // JSON's escapes are Python's too

export function curl({ base, name, question, candidates, kind, layers, key }) {
  const lines = [`curl ${inShell(`${base}v1/answer`)}`];
  if (key) lines.push(`-H "Authorization: Bearer $CROSSLOOK_API_KEY"`);
  lines.push(`-F ${inShell(`image=@${inForm(name)}`)}`, `--form-string question=${inShell(question)}`);
  for (const candidate of candidates ?? []) lines.push(`--form-string candidates=${inShell(candidate)}`);
  if (kind) lines.push(`-F map_kind=${kind}`);
  for (const layer of layers ?? []) lines.push(`-F layers=${layer}`);
  return lines.join(" \\\n  ");
}

export function python({ base, name, question, candidates, kind, layers }) {
  const options = [];
  if (candidates) options.push(`candidates=[${candidates.map(inPython).join(", ")}]`);
  if (kind) options.push(`map_kind=${inPython(kind)}`);
  if (layers) options.push(`layers=[${layers.join(", ")}]`);
  const call = [inPython(name), inPython(question), ...options].join(", ");
  return `from crosslook import Client

with Client(${inPython(base.replace(/\/$/, ""))}) as client:
    answer = client.answer(${call})
print(answer, answer.score)
answer.overlay().save("map.png")`;
}

export function showCode(asked) {
  document.getElementById("curl").textContent = curl(asked);
  document.getElementById("python").textContent = python(asked);
}
