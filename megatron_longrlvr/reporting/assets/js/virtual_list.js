// A list box of any length: only the rows in view exist. Arrow keys, Page Up and Down, Home, End.

class VirtualList {
  // renderRow(item) gives the content of a row; onChoose(item) is told of the chosen one.
  constructor({ label, rowHeight, renderRow, onChoose }) {
    Object.assign(this, { rowHeight, renderRow, onChoose, items: [], chosen: -1 });
    this.sizer = h("div", { class: "list-sizer" });
    this.element = h("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": label }, this.sizer);
    this.element.addEventListener("scroll", () => this.draw());
    this.element.addEventListener("keydown", (event) => this.move(event));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  show(items, chosen) {
    this.items = items;
    this.chosen = chosen;
    this.sizer.style.height = `${items.length * this.rowHeight}px`;
    if (chosen < 0) this.element.scrollTop = 0;
    this.draw();
    if (chosen >= 0) this.reveal();
  }

  choose(index) {
    if (index < 0 || index >= this.items.length) return;
    this.chosen = index;
    this.reveal();
    this.draw();
    this.onChoose(this.items[index]);
  }

  reveal() {
    const top = this.chosen * this.rowHeight;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + this.rowHeight > scrollTop + clientHeight) this.element.scrollTop = top + this.rowHeight - clientHeight;
  }

  move(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight) - 1);
    const last = this.items.length - 1;
    const targets = {
      ArrowDown: this.chosen + 1,
      ArrowUp: this.chosen - 1,
      PageDown: this.chosen + page,
      PageUp: this.chosen - page,
      Home: 0,
      End: last,
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    this.choose(Math.min(Math.max(targets[event.key], 0), last));
  }

  draw() {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / this.rowHeight) - 5);
    const end = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / this.rowHeight) + 5);
    const rows = [];
    for (let index = first; index < end; index += 1) {
      rows.push(
        h(
          "div",
          {
            class: "row",
            id: `row-${index}`,
            role: "option",
            "aria-selected": String(index === this.chosen),
            "aria-posinset": index + 1,
            "aria-setsize": this.items.length,
            vars: { top: `${index * this.rowHeight}px`, height: `${this.rowHeight}px` },
            onclick: () => this.choose(index),
          },
          this.renderRow(this.items[index]),
        ),
      );
    }
    replaceChildren(this.sizer, rows);
    this.element.setAttribute("aria-activedescendant", this.chosen >= 0 ? `row-${this.chosen}` : "");
  }
}
