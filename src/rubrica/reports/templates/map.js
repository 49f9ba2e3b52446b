(() => {
  "use strict";
  const { spec, columns, dots } = JSON.parse(document.getElementById("data").textContent);
  const values = spec.data.values;
  const layer = spec.layer[0];
  const regionColour = layer.encoding.color;
  const regionLegend = layer.params[1];
  const detail = document.getElementById("detail");
  const colour = document.getElementById("colour");
  const find = document.getElementById("find");

  for (const name of columns) {
    const option = document.createElement("option");
    option.value = name;
    option.textContent = name;
    colour.append(option);
  }

  const add = (kind, text, name) => {
    const made = document.createElement(kind);
    made.textContent = text;
    if (name) made.className = name;
    detail.append(made);
  };

  const read = (id) => {
    const dot = dots[id];
    if (!dot) return;
    detail.replaceChildren();
    add("h3", `${dot.region}${dot.stratum ? ` of ${dot.stratum}` : ""}`);
    add("p", `mean ${dot.mean.toPrecision(4)}, standard deviation ${dot.deviation.toPrecision(4)} · ${dot.id}`, "note");
    if (dot.rank) add("p", `Suspect ${dot.rank}: ${dot.reason}.`, "note");
    const columnsSaid = Object.entries(dot.columns).map(([name, value]) => `${name}: ${value || "–"}`).join(" · ");
    if (columnsSaid) add("p", columnsSaid, "note");
    add("h4", "Prompt");
    add("div", dot.prompt, "said");
    const ranked = [...dot.answers].sort((a, b) => b.score - a.score);
    for (const answer of ranked) {
      add("h4", `score ${answer.score.toPrecision(4)}${answer.label === null ? "" : ` · label ${answer.label}`}`);
      add("div", answer.text, "said");
    }
  };

  const draw = () => {
    const words = find.value.trim().toLowerCase();
    const matches = (row) => {
      const dot = dots[row.id];
      return [dot.prompt, ...dot.answers.map((answer) => answer.text)].some((text) => text.toLowerCase().includes(words));
    };
    const kept = words ? values.filter(matches) : values;
    document.getElementById("count").textContent = words ? `${kept.length} of ${values.length}` : "";
    const byRegion = colour.value === "";
    const field = `column ${colour.value}`;
    // a dot in a name would mean a nested field
    const escaped = field.replace(/[\\.[\]'"]/g, "\\$&");
    layer.encoding.color = byRegion
      ? regionColour
      : { field: escaped, type: "nominal", legend: { orient: "top", title: null, columns: 4, labelLimit: 150 } };
    layer.params[1] = byRegion
      ? regionLegend
      : { name: "picked", select: { type: "point", fields: [escaped] }, bind: "legend" };
    const shown = { ...spec, data: { values: kept } };
    window.vegaEmbed("#chart", shown, { actions: false, ast: true, renderer: "svg" }).then((result) => {
      result.view.addEventListener("click", (event, item) => {
        if (item && item.datum && item.datum.id) read(item.datum.id);
      });
    });
  };

  colour.addEventListener("change", draw);
  find.addEventListener("change", draw);
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("button[data-id]") : null;
    if (button) {
      read(button.dataset.id);
      detail.scrollIntoView({ block: "nearest" });
    }
  });
  draw();
})();
