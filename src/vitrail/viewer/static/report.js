// A report that the viewer serves: what names a slide or a tile leads to it.

const session = await (await fetch("../api/session")).json();
const ids = new Map(session.slides.map((slide) => [slide.name, slide.id]));
for (const element of document.querySelectorAll("[data-slide]")) {
  const id = ids.get(element.dataset.slide);
  if (!id) continue;
  const link = document.createElement("a");
  link.href = `../#slide=${id}${element.dataset.tile ? `&tile=${element.dataset.tile}` : ""}`;
  link.append(...element.childNodes);
  element.append(link);
}
