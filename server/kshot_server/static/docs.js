"use strict";
// Draws /openapi.json, and nothing that is not in it. Text goes in as text, never as markup.

function element(tag, attributes, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// `code` between backticks; an empty line begins a paragraph.
function prose(text) {
  const words = (part) => part.split("`").map((piece, i) => (i % 2 ? element("code", {}, piece) : piece));
  return element("div", {}, ...(text || "").split("\n\n").map((part) => element("p", {}, ...words(part))));
}

function resolve(schema, schemas) {
  return schema && schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema;
}

function typeOf(schema, schemas) {
  const found = resolve(schema, schemas) || {};
  if (found.anyOf) return found.anyOf.map((one) => typeOf(one, schemas)).join(" or ");
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (found.type === "array") return "list of " + typeOf(found.items, schemas);
  return found.title && found.properties ? found.title : found.format || found.type || "any";
}

function rows(items) {
  const row = ([name, type, text]) =>
    element("tr", {}, element("td", {}, element("code", {}, name)), element("td", {}, type), element("td", {}, prose(text)));
  return items.length ? element("table", {}, element("tbody", {}, ...items.map(row))) : null;
}

function fields(schema, schemas) {
  const found = resolve(schema, schemas);
  const inner = found && found.type === "array" ? resolve(found.items, schemas) : found;
  if (!inner || !inner.properties) return prose((found || {}).description);
  const all = Object.entries({ ...inner.properties, ...inner.patternProperties });
  const nested = all
    .map(([name, value]) => [name, resolve(value.type === "array" ? value.items : value, schemas)])
    .filter(([, value]) => value && value.properties)
    .map(([name, value]) => element("details", {}, element("summary", {}, element("code", {}, name)), fields(value, schemas)));
  const needed = inner.required || [];
  const described = all.map(([name, value]) => [
    name, typeOf(value, schemas) + (needed.includes(name) ? "" : ", optional"), value.description,
  ]);
  return element("div", {}, prose(inner.description), rows(described), ...nested);
}

function content(type, media, schemas) {
  const example = Object.values(media.examples || {})[0];
  return element("details", {}, element("summary", {}, element("code", {}, type)), fields(media.schema, schemas),
    example ? element("pre", {}, JSON.stringify(example.value, null, 2)) : null);
}

function answer([status, response], schemas) {
  const media = Object.entries(response.content || {})[0];
  const title = [element("b", {}, status), " ", ...prose(response.description).firstChild.childNodes];
  const shown = media && Number(status) < 400 ? fields(media[1].schema, schemas) : null;
  return shown ? element("details", {}, element("summary", {}, ...title), shown) : element("p", {}, ...title);
}

function operation(path, method, route, schemas) {
  const parameters = (route.parameters || []).map((one) => [
    one.name, `${one.in}, ${typeOf(one.schema, schemas)}${one.required ? "" : ", optional"}`, one.description,
  ]);
  const bodies = Object.entries(((route.requestBody || {}).content) || {});
  return element("details", { id: route.operationId },
    element("summary", {}, element("code", {}, element("b", { className: method }, method.toUpperCase()), " " + path), " ",
      element("span", { className: "title" }, route.summary)),
    prose(route.description),
    parameters.length ? element("h4", {}, "Parameters") : null, rows(parameters),
    bodies.length ? element("h4", {}, "Body, one of") : null, ...bodies.map(([type, media]) => content(type, media, schemas)),
    element("h4", {}, "Answers"), ...Object.entries(route.responses).map((response) => answer(response, schemas)));
}

function draw(document_) {
  const schemas = document_.components.schemas;
  document.getElementById("version").append(document_.info.version);
  document.getElementById("about").append(prose(document_.info.description));
  const routes = Object.entries(document_.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => [path, method, route]));
  const sections = document_.tags.map((tag) => element("section", {},
    element("h2", {}, tag.name), prose(tag.description),
    ...routes.filter(([, , route]) => route.tags[0] === tag.name).map((row) => operation(...row, schemas))));
  document.getElementById("routes").replaceChildren(...sections);
  const named = document.getElementById(location.hash.slice(1));
  if (named) named.open = true;
}

fetch("/openapi.json").then((response) => response.json()).then(draw);
