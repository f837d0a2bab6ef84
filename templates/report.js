// Makes the page's tables sortable and filterable and its charts interactive. Without it the page is whole.
"use strict";
(() => {
  const words = document.body.dataset;

  // Tables

  const NUMBER = /^[<>=~\s]*(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)/i;
  const collator = new Intl.Collator(document.documentElement.lang, { numeric: true });

  function value(row, column) {
    const text = row.cells[column].textContent.trim();
    const match = NUMBER.exec(text);
    return { text, number: match ? Number(match[1]) : NaN };
  }

  // Cells without a number come last in both directions; equal rows keep their order.
  function compare(numbers, direction) {
    return ([a], [b]) => {
      if (!numbers) return direction * collator.compare(a.text, b.text);
      if (Number.isNaN(a.number) || Number.isNaN(b.number)) return Number.isNaN(a.number) - Number.isNaN(b.number);
      return direction * (a.number - b.number);
    };
  }

  function sort(table, heading, column) {
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [value(row, column), row]);
    rows.sort(compare(heading.classList.contains("number"), direction));
    body.append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  }

  function makeSortable(table) {
    Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = words.sort;
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading, column));
      heading.append(button);
    });
  }

  function makeFilterable(table, box) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    const line = document.createElement("div");
    input.type = "search";
    line.className = "filter";
    label.append(`${words.filter}: `, input);
    line.append(label, count);
    const rows = Array.from(table.tBodies[0].rows, (row) => [row, row.textContent.toLowerCase()]);
    input.addEventListener("input", () => {
      const parts = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [row, text] of rows) {
        row.hidden = !parts.every((part) => text.includes(part));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = parts.length ? `${shown} / ${rows.length} ${words.rows}` : "";
    });
    box.before(line);
  }

  const ROWS_WORTH_A_FILTER = 10;
  for (const box of document.querySelectorAll("div.table")) {
    const table = box.querySelector("table");
    const rows = table.tBodies[0].rows.length;
    if (rows > 1) makeSortable(table);
    if (rows >= ROWS_WORTH_A_FILTER) makeFilterable(table, box);
  }

  // Charts: the page holds the picture and its data; a canvas takes the picture's place on the screen.

  const DASHES = [[], [7, 4], [7, 3, 2, 3], [2, 3]];
  const MARKS = ["circle", "rect", "triangle", "rectRot", "star", "crossRot"];

  function style(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // Whiskers from the smallest to the largest run, the mark on a bar, and the word where there is no bar.
  const marks = {
    id: "marks",
    afterDatasetsDraw(chart) {
      const { ctx, scales, data } = chart;
      const lying = chart.options.indexAxis === "y";
      const along = lying ? scales.x : scales.y;
      ctx.save();
      ctx.strokeStyle = style("--ink");
      ctx.lineWidth = 1.2;
      ctx.textBaseline = "middle";
      chart.data.datasets.forEach((dataset, index) => {
        if (!chart.isDatasetVisible(index)) return;
        chart.getDatasetMeta(index).data.forEach((element, place) => {
          const point = dataset.points[place];
          if (!point) return;
          const across = lying ? element.y : element.x;
          const stroke = (value, reach) => {
            const at = along.getPixelForValue(value);
            line(ctx, lying, at, across - reach, at, across + reach);
          };
          if (point.word) {
            ctx.font = "italic 12px sans-serif";
            ctx.fillStyle = style("--faint");
            ctx.fillText(point.word, along.getPixelForValue(0) + 4, across);
          }
          if (point.low !== null && point.high > point.low) {
            const [low, high] = [point.low, point.high].map((value) => along.getPixelForValue(value));
            line(ctx, lying, low, across, high, across);
            stroke(point.low, 3);
            stroke(point.high, 3);
          }
          if (point.middle !== null) stroke(point.middle, 7);
          if (data.labelled && point.y !== null) {
            ctx.font = "12px sans-serif";
            ctx.fillStyle = style("--ink");
            const end = along.getPixelForValue(Math.max(point.y, point.high ?? point.y));
            ctx.fillText(data.written(point.middle ?? point.y), end + 5, across);
          }
        });
      });
      ctx.restore();
    },
  };

  // The last value of each line beside its end, moved upwards where it would lie on another one.
  const ends = {
    id: "ends",
    afterDatasetsDraw(chart) {
      const { ctx, scales, data } = chart;
      const labels = data.datasets
        .filter((dataset, index) => chart.isDatasetVisible(index) && !dataset.ideal && dataset.data.length)
        .map((dataset) => {
          const { x, y } = dataset.data.at(-1);
          const [left, height] = [scales.x.getPixelForValue(x) + 7, scales.y.getPixelForValue(y)];
          return { text: data.written(y), left, height };
        })
        .sort((a, b) => b.height - a.height);
      ctx.save();
      ctx.font = "12px sans-serif";
      ctx.textBaseline = "middle";
      const highest = new Map();
      for (const { text, left, height } of labels) {
        const place = Math.min(height, (highest.get(left) ?? Infinity) - 14);
        highest.set(left, place);
        ctx.fillStyle = style("--ink"); // lines may be too light or too dark for text
        ctx.fillText(text, left, place);
      }
      ctx.restore();
    },
  };

  function line(ctx, lying, along, across, toAlong, toAcross) {
    ctx.beginPath();
    ctx.moveTo(lying ? along : across, lying ? across : along);
    ctx.lineTo(lying ? toAlong : toAcross, lying ? toAcross : toAlong);
    ctx.stroke();
  }

  // As the tables write them.
  const WRITTEN = {
    rate: (number) => (Math.abs(number) >= 10 ? number.toFixed(2) : number.toPrecision(4)),
    factor: (number) => number.toFixed(2),
    percent: (number) => `${(100 * number).toFixed(0)} %`,
    whole: (number) => number.toFixed(0),
  };

  // A canvas squeezes a line of text that does not fit; these fit.
  function lines(text, width) {
    const wide = document.createElement("canvas").getContext("2d");
    wide.font = "12px sans-serif";
    const made = [];
    for (const part of text.split("\n")) {
      let line = "";
      for (const word of part.split(" ")) {
        const longer = line ? `${line} ${word}` : word;
        if (line && wide.measureText(longer).width > width) {
          made.push(line);
          line = word;
        } else {
          line = longer;
        }
      }
      made.push(line);
    }
    return made;
  }

  function tooltip({ chart, dataset, dataIndex }) {
    const { written } = chart.data;
    const point = dataset.points[dataIndex];
    if (!point || point.y === null) return `${dataset.label}: ${point ? point.word : ""}`;
    const middle = point.middle === null ? point.y : point.middle;
    const spread = point.low === null || point.low === point.high ? "" : ` (${written(point.low)} \u2013 ${written(point.high)})`;
    return `${dataset.label}: ${written(middle)}${spread}`;
  }

  function barDatasets(plot) {
    return plot.series.map((series) => {
      const points = plot.categories.map((_, place) => series.points.find((point) => point.x === place) || null);
      const data = points.map((point) => {
        if (!point || point.y === null) return null;
        return point.start === null ? point.y : [point.start, point.y];
      });
      return { label: series.label, data, points, backgroundColor: series.colour, barPercentage: 0.92, maxBarThickness: 26 };
    });
  }

  function lineDatasets(plot) {
    return plot.series.map((series) => ({
      label: series.label,
      ideal: series.ideal,
      data: series.points.map(({ x, y }) => ({ x, y })),
      points: series.points,
      borderColor: series.ideal ? style("--faint") : visible(series.colour),
      backgroundColor: series.ideal ? style("--faint") : visible(series.colour),
      borderDash: DASHES[series.variant % DASHES.length],
      borderWidth: series.ideal ? 1 : 2.5,
      pointRadius: series.ideal ? 0 : 4,
      pointStyle: MARKS[series.variant % MARKS.length],
    }));
  }

  // Black lines of the palette would vanish on a dark page.
  const visible = (colour) => (colour === "#000000" ? style("--ink") : colour);

  function configuration(plot, width) {
    const bars = plot.kind !== "lines";
    // A bar or a box has its number behind it; on the parts of a stack there is no room.
    const boxes = plot.series.some(({ points }) => points.some(({ middle }) => middle !== null));
    const labelled = plot.kind === "bars" || boxes;
    const [ink, grid] = [style("--ink"), style("--line")];
    const axis = (title) => ({
      title: { display: title[0] !== "", text: title, color: ink },
      ticks: { color: ink },
      grid: { color: grid },
    });
    const top = Math.max(...plot.series.flatMap(({ points }) => points.map(({ y, high }) => Math.max(y ?? 0, high ?? 0))));
    const scales = { x: axis(xTitle(plot, width)), y: axis(lines(plot.y_name, LINES_HEIGHT - 130)) };
    if (bars) {
      scales.x.beginAtZero = true;
      scales.x.suggestedMax = labelled ? 1.02 * top : top;
      scales.y.grid.display = false;
      scales.y.ticks.autoSkip = false;
      scales.x.stacked = scales.y.stacked = plot.kind === "stack";
      if (boxes) scales.x.stacked = false;
    } else {
      const labels = new Map(plot.ticks);
      scales.x.type = plot.logarithmic_x ? "logarithmic" : "linear";
      scales.x.afterBuildTicks = (scale) => { scale.ticks = plot.ticks.map(([value]) => ({ value })); };
      scales.x.ticks.callback = (value) => (labels.get(value) ?? "").split("\n");
      scales.x.ticks.autoSkip = false;
      scales.y.beginAtZero = true;
      scales.y.suggestedMax = 1.05 * top;
      if (plot.numbers === "percent") scales.y.ticks.callback = WRITTEN.percent;
    }
    return {
      type: bars ? "bar" : "line",
      data: {
        labels: plot.categories,
        datasets: bars ? barDatasets(plot) : lineDatasets(plot),
        written: WRITTEN[plot.numbers],
        labelled,
      },
      plugins: bars ? [marks] : [marks, ends],
      options: {
        indexAxis: bars ? "y" : "x",
        animation: false,
        layout: { padding: { right: labelled || !bars ? 64 : 12 } },
        maintainAspectRatio: false,
        interaction: { mode: bars ? "index" : "nearest", axis: bars ? "y" : "x", intersect: false },
        scales,
        plugins: {
          title: { display: true, text: lines(plot.title, width - 40), color: ink, align: "start" },
          legend: { labels: { color: ink, usePointStyle: !bars }, align: "start" },
          tooltip: { callbacks: { label: tooltip } },
        },
      },
    };
  }

  const LINES_HEIGHT = 400;

  // Beside a chart of bars stand their names.
  function xTitle(plot, width) {
    const names = Math.max(0, ...plot.categories.map((name) => 7 * name.length));
    return lines(plot.x_name, Math.max(width - names - 80, 120));
  }

  function height(plot, width) {
    if (plot.kind === "lines") return LINES_HEIGHT;
    const bars = plot.kind === "stack" ? 1 : plot.series.length;
    return 115 + 15 * xTitle(plot, width).length + plot.categories.length * (bars * 22 + 14);
  }

  function draw(figure) {
    const plot = JSON.parse(figure.querySelector("script").textContent);
    const picture = figure.querySelector(".picture");
    const box = document.createElement("div");
    const canvas = document.createElement("canvas");
    box.className = "canvas";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", picture.getAttribute("aria-label"));
    box.append(canvas);
    figure.append(box);
    picture.hidden = true;
    let width = 0;
    let chart = null;
    const again = () => {
      chart?.destroy();
      width = box.clientWidth;
      box.style.height = `${height(plot, width)}px`;
      chart = new Chart(canvas, configuration(plot, width));
    };
    again();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    addEventListener("resize", () => {
      if (box.clientWidth !== 0 && box.clientWidth !== width) again(); // on paper there is no canvas
    });
  }

  for (const figure of document.querySelectorAll("figure.chart")) draw(figure);
})();
