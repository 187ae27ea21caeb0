// Draws the timeline, the charts and the table of all sessions of a run, from the data that the page carries.
// Times in the data are seconds of the run; the axis shows the local time of the machine that ran the client.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const KINDS = { pod: "by pod", node: "by the pod's node", reflexive_ip: "by reflexive IP" };
  const CLASSES = ["violation", "unknown", "other"];
  const WORDS = { violation: ["violation", "violations"], unknown: ["unknown", "unknown"],
    other: ["explained or harmless", "explained or harmless"], lost: ["probe lost", "probes lost"] };
  const ROW = 20, HEAD = 18, TOP = 34, NEAR = 5;
  const PAPER = 700, SLICE = 200; // px: the width of A4 without margins, and the height of a piece of the timeline on it
  const LABEL = 70; // px: a label with less room than this tells nothing

  const element = (tag, attributes = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const number = (value) => value.toLocaleString("en");
  const counted = (count, name) => `${number(count)} ${WORDS[name][count === 1 ? 0 : 1]}`;
  const two = (value) => String(value).padStart(2, "0");
  const clock = (second, decimals = 1) => {
    const ms = Math.round((data.start + second) * 1000), date = new Date(ms);
    const tail = decimals ? "." + String(Math.floor(date.getUTCMilliseconds() / 10 ** (3 - decimals))).padStart(decimals, "0") : "";
    return `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}:${two(date.getUTCSeconds())}${tail}`;
  };

  // --- the range of time that is shown, the same for all drawings ----------------------------------------------------

  const whole = [0, Math.max(data.duration, data.step)];
  let range = whole.slice();
  const drawings = [];
  const show = (from, to) => {
    const least = Math.min(0.5, whole[1]);
    if (to - from < least) { const middle = (from + to) / 2; from = middle - least / 2; to = middle + least / 2; }
    range = [Math.max(0, from), Math.min(whole[1], to)];
    for (const draw of drawings) draw();
  };
  const zoom = (factor) => {
    const middle = (range[0] + range[1]) / 2, half = (range[1] - range[0]) * factor / 2;
    show(middle - half, middle + half);
  };
  const shift = (share) => {
    const by = Math.max(-range[0], Math.min(whole[1] - range[1], (range[1] - range[0]) * share));
    show(range[0] + by, range[1] + by);
  };

  // --- rows of the timeline --------------------------------------------------------------------------------------------

  const rows = [];
  const addHead = (text) => rows.push({ head: text, height: HEAD });
  for (const lanes of data.lanes) {
    const named = lanes.rows.length > 1 || lanes.kind === "pod";
    if (!lanes.rows.length || !named) continue;
    addHead(KINDS[lanes.kind] + (lanes.of > lanes.rows.length ? ` (${lanes.rows.length} of ${number(lanes.of)})` : ""));
    // One scale for all rows below a heading, so that the tallest bar is where most happened.
    const counts = (names) => lanes.rows.flatMap((lane) => names.flatMap((name) => lane[name].map(([, count]) => count)));
    const most = { cases: Math.max(1, ...counts(CLASSES)), lost: Math.max(1, ...counts(["lost"])) };
    for (const lane of lanes.rows) {
      const at = { lost: new Map(lane.lost) };
      for (const name of CLASSES) at[name] = new Map(lane[name]);
      const slowest = Math.max(0, ...lane.p99.map(([, ms]) => ms ?? 0));
      rows.push({ name: lane.name, at, most, p99: lane.p99, slowest, height: ROW });
    }
  }
  if (data.sessions.rows.length) {
    addHead(`sessions (${data.sessions.rows.length} of ${number(data.sessions.started)}, most violations first; `
      + `${number(data.sessions.of)} had changes, silence or losses)`);
    for (const session of data.sessions.rows) rows.push({ ...session, height: ROW });
  }

  // --- the canvas --------------------------------------------------------------------------------------------------------

  const section = document.getElementById("timeline");
  const canvas = element("canvas", { id: "lanes", tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "When it happened, by pod, node, reflexive IP and session; the same stands below in words");
  const tip = element("div", { id: "tip", hidden: true });
  let left = 190, width = 900;
  const height = TOP + rows.reduce((sum, row) => sum + row.height, 0) + 4;
  // What is wider than the paper makes the browser print the whole page smaller.
  let printing = false;
  const room = () => Math.max(280, printing ? Math.min(PAPER, section.clientWidth) : section.clientWidth);
  const x = (second) => left + (second - range[0]) / (range[1] - range[0]) * (width - left);
  const second = (px) => range[0] + (px - left) / (width - left) * (range[1] - range[0]);
  let selecting = null;

  const fit = (pen, text, room, cut = (kept) => text.slice(0, kept) + "…") => {
    if (pen.measureText(text).width <= room) return text;
    let kept = text.length;
    while (kept > 1 && pen.measureText(cut(kept)).width > room) kept -= 1;
    return cut(kept);
  };
  // Names differ at their ends: the hash of a pod, the number of a session.
  const fitName = (pen, text, room) => pen.measureText(text).width <= room ? text
    : fit(pen, text.replace(/^CLIENT-/, "…"), room, (kept) => "…" + text.slice(-kept));

  const drawLane = (pen, row, y, colours) => {
    const cell = data.step / (range[1] - range[0]) * (width - left);
    // Each class has heights of its own, so that they are told apart without colours too.
    const bars = (counts, colour, most, low, high) => {
      pen.fillStyle = colour;
      for (const [bin, count] of counts) {
        const at = x(bin * data.step);
        if (at + cell < left || at > width) continue;
        const tall = (ROW - 3) * (low + (high - low) * Math.sqrt(count / most));
        pen.fillRect(Math.max(left, at), y + ROW - 1 - tall, Math.max(2, cell - 0.5), tall);
      }
    };
    bars(row.at.lost, colours.lost, row.most.lost, 0.12, 0.45);
    bars(row.at.other, colours.other, row.most.cases, 0.2, 0.4);
    bars(row.at.unknown, colours.unknown, row.most.cases, 0.45, 0.6);
    bars(row.at.violation, colours.violation, row.most.cases, 0.65, 1);
    if (!row.slowest) return;
    pen.save();
    pen.beginPath();
    pen.rect(left, y, width - left, ROW);
    pen.clip();
    pen.strokeStyle = colours.time;
    pen.globalAlpha = 0.7;
    pen.beginPath();
    let pen_down = false;
    for (const [at, ms] of row.p99) {
      if (ms === null) { pen_down = false; continue; }
      const px = x(at), py = y + ROW - 3 - (ROW - 6) * ms / row.slowest;
      if (pen_down) pen.lineTo(px, py); else pen.moveTo(px, py);
      pen_down = true;
    }
    pen.stroke();
    pen.restore();
  };

  const drawSession = (pen, row, y, colours) => {
    const bar = (from, to, colour, tall) => {
      const start = Math.max(left, x(from)), end = Math.min(width, x(to));
      if (x(to) < left || x(from) > width) return;
      pen.fillStyle = colour;
      pen.fillRect(start, y + (ROW - tall) / 2, Math.max(3, end - start), tall);
    };
    for (const [from, to] of row.lost) bar(from, to, colours.lost, 4);
    // The worst last, so that nothing hides it.
    for (const name of [...CLASSES].reverse()) {
      for (const [from, to, judged] of row.marks) {
        if (judged === name) bar(from, to ?? whole[1], colours[name], { violation: 16, unknown: 12, other: 8 }[name]);
      }
    }
  };

  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    width = room();
    left = width < 700 ? 96 : 230;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = width + "px";
      canvas.style.height = height + "px";
    }
    const pen = canvas.getContext("2d");
    const colours = Object.fromEntries([...CLASSES, "lost", "time"].map((name) => [name, css(name)]));
    const [fg, dim, line, band, event, background] = ["fg", "dim", "line", "band", "event", "bg"].map(css);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";

    let y = TOP, odd = false;
    for (const row of rows) {
      if (row.head) odd = false;
      else {
        if ((odd = !odd)) { pen.fillStyle = band; pen.fillRect(0, y, width, ROW); }
        pen.fillStyle = fg;
        pen.textAlign = "left";
        pen.fillText(fitName(pen, row.name, left - 8), 0, y + ROW / 2);
        (row.marks ? drawSession : drawLane)(pen, row, y, colours);
      }
      y += row.height;
    }

    // Ticks of the time at round seconds, about one each 110 px.
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
    const wanted = (range[1] - range[0]) / Math.max(2, (width - left) / 110);
    const step = steps.find((each) => each >= wanted) ?? 86400;
    pen.strokeStyle = line;
    pen.textAlign = "center";
    for (let at = Math.ceil((data.start + range[0]) / step) * step; at <= data.start + range[1]; at += step) {
      const px = x(at - data.start);
      pen.globalAlpha = 0.6;
      pen.beginPath(); pen.moveTo(px, TOP - 6); pen.lineTo(px, height); pen.stroke();
      pen.globalAlpha = 1;
      pen.fillStyle = dim;
      if (px > left + 24 && px < width - 24) pen.fillText(clock(at - data.start, step < 1 ? 1 : 0), px, 7);
    }

    pen.strokeStyle = event;
    pen.fillStyle = event;
    pen.textAlign = "left";
    const labels = [];
    for (const [at, text] of data.events) {
      const px = x(at);
      if (px < left || px > width) continue;
      pen.setLineDash([2, 3]);
      pen.beginPath(); pen.moveTo(px, 14); pen.lineTo(px, height); pen.stroke();
      if (px - (labels.at(-1)?.px ?? -LABEL) >= LABEL && width - px > 40) labels.push({ px, text });
    }
    pen.setLineDash([]);
    labels.forEach(({ px, text }, count) => {
      const label = fit(pen, text, Math.min(240, (labels[count + 1]?.px ?? width) - px - 8));
      pen.fillStyle = background;
      pen.fillRect(px + 2, 15, pen.measureText(label).width + 2, 11);
      pen.fillStyle = event;
      pen.fillText(label, px + 3, 21);
    });

    y = TOP;
    for (const row of rows) {
      if (row.head) {
        const text = fit(pen, row.head, width);
        pen.fillStyle = background;
        pen.fillRect(0, y, pen.measureText(text).width + 4, HEAD - 1);
        pen.fillStyle = dim;
        pen.fillText(text, 0, y + HEAD / 2);
      }
      y += row.height;
    }

    for (const [from, , count, judged] of data.incidents) {
      const px = x(from);
      if (px < left || px > width) continue;
      pen.fillStyle = colours[judged];
      pen.beginPath(); pen.moveTo(px - 5, 26); pen.lineTo(px + 5, 26); pen.lineTo(px, 33); pen.fill();
    }

    if (selecting) {
      pen.fillStyle = event;
      pen.globalAlpha = 0.2;
      pen.fillRect(Math.min(...selecting), 0, Math.abs(selecting[1] - selecting[0]), height);
      pen.globalAlpha = 1;
    }
  };

  // A canvas is never broken between pages, and this one may be longer than a page: on paper it stands in pieces.
  const slices = () => {
    const ratio = canvas.width / width, ends = [];
    let y = TOP, begin = 0;
    for (const row of rows) {
      if (y + row.height - begin > SLICE) { ends.push(y); begin = y; }
      y += row.height;
    }
    return [...ends, height].map((end, count) => {
      const from = count ? ends[count - 1] : 0, piece = element("canvas", { width: canvas.width, height: Math.round((end - from) * ratio) });
      piece.style.width = "100%";
      piece.getContext("2d").drawImage(canvas, 0, -Math.round(from * ratio));
      return piece;
    });
  };

  // --- what the pointer is at --------------------------------------------------------------------------------------------

  const rowAt = (py) => {
    let y = TOP;
    for (const row of rows) {
      if (py >= y && py < y + row.height) return row;
      y += row.height;
    }
    return null;
  };
  const incidentAt = (px, py) => py < TOP ? data.incidents.find(([from]) => Math.abs(x(from) - px) <= NEAR) : undefined;

  const tell = (px, py) => {
    const told = [];
    const found = incidentAt(px, py);
    if (found) told.push(`incident ${found[2]}: click to read`);
    const row = rowAt(py), at = second(px);
    if (row && !row.head && row.marks) {
      const near = (from, to) => px >= x(from) - NEAR && px <= Math.max(x(from) + 3, x(to)) + NEAR;
      told.push(row.name);
      for (const [from, to, , text] of row.marks) {
        if (near(from, to ?? whole[1])) told.push(`${clock(from, 3)} ${text}`);
      }
      for (const [from, to, count] of row.lost) {
        if (near(from, to)) told.push(`${clock(from, 3)} ${counted(count, "lost")}`);
      }
    } else if (row && !row.head) {
      const bin = Math.floor(at / data.step);
      told.push(row.name, clock(bin * data.step, 0) + (data.step > 1 ? ` and ${data.step} s from there` : ""));
      for (const name of [...CLASSES, "lost"]) {
        // A bar is at least 2 px wide: what is seen there counts.
        const reach = Math.ceil(2 / ((width - left) / (range[1] - range[0])) / data.step);
        for (let each = bin - reach; each <= bin; each += 1) {
          const count = row.at[name].get(each);
          if (count) { told.push(counted(count, name)); break; }
        }
      }
      const time = row.p99.find(([end]) => end >= at);
      if (time && time[1] !== null) told.push(`p99 ${time[1]} ms`);
    }
    for (const [when, text] of data.events) {
      if (Math.abs(x(when) - px) <= NEAR && told.length < 14) told.push(`${clock(when, 3)} ${text}`);
    }
    return told.slice(0, 16).join("\n");
  };

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointermove", (event) => {
    const [px, py] = place(event);
    if (selecting) { selecting[1] = Math.max(left, Math.min(width, px)); draw(); }
    const told = px >= left ? tell(px, py) : rowAt(py)?.name ?? "";
    tip.hidden = !told;
    tip.textContent = told;
    const wide = tip.offsetWidth, tall = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, window.innerWidth - wide - 8)) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 14, window.innerHeight - tall - 8)) + "px";
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("pointerdown", (event) => {
    const [px] = place(event);
    if (event.button === 0 && px >= left) { selecting = [px, px]; canvas.setPointerCapture(event.pointerId); }
  });
  canvas.addEventListener("pointerup", (event) => {
    const [px, py] = place(event), chosen = selecting;
    selecting = null;
    if (chosen && Math.abs(chosen[1] - chosen[0]) > 4) show(second(Math.min(...chosen)), second(Math.max(...chosen)));
    else {
      draw();
      const found = incidentAt(px, py);
      if (found) openIncident(found[2]);
    }
  });
  canvas.addEventListener("pointercancel", () => { selecting = null; draw(); });
  canvas.addEventListener("dblclick", () => show(...whole));
  canvas.addEventListener("keydown", (event) => {
    const act = { "+": () => zoom(0.5), "-": () => zoom(2), "0": () => show(...whole), ArrowLeft: () => shift(-0.25),
      ArrowRight: () => shift(0.25) }[event.key];
    if (act) { act(); event.preventDefault(); }
  });

  const openIncident = (count) => {
    const details = document.getElementById("incident-" + count);
    if (!details) return;
    for (const other of document.querySelectorAll("details.found")) other.classList.remove("found");
    for (let around = details; around; around = around.parentElement.closest("details")) around.open = true;
    details.classList.add("found");
    details.scrollIntoView({ block: "center" });
  };

  // --- charts of the whole run -----------------------------------------------------------------------------------------------

  const charts = [];
  const chart = (title, columns, series, holder) => {
    // From 0, and as high as what is shown and the value before it, from which a line comes in.
    const tall = (plot, low, high) => {
      const before = columns[0].findLastIndex((at) => at <= data.start + range[0]);
      return [0, 1.1 * Math.max(high ?? 0, ...columns.slice(1).map((values) => values[before] ?? 0)) || 1];
    };
    const axis = { stroke: () => css("dim"), grid: { stroke: () => css("line"), width: 1 }, ticks: { stroke: () => css("line") } };
    const options = {
      title, width: room(), height: 170,
      tzDate: (stamp) => uPlot.tzDate(new Date(stamp * 1000), "Etc/UTC"),
      cursor: { drag: { x: true, y: false }, sync: { key: "run" } },
      scales: { x: { time: true, range: () => [data.start + range[0], data.start + range[1]] }, y: { range: tall } },
      padding: [8, 0, 0, 0], // the same edges as the timeline's
      axes: [{ ...axis, space: 80, values: (_, splits, column, room, step) => splits.map((each) => clock(each - data.start, step < 1 ? 1 : 0)) }, { ...axis, size: () => left }],
      series: [{ label: "at", value: (_, stamp) => stamp === null ? "-" : clock(stamp - data.start, 1) }, ...series],
      hooks: {
        setSelect: [(plot) => {
          if (plot.select.width > 4) {
            const from = plot.posToVal(plot.select.left, "x"), to = plot.posToVal(plot.select.left + plot.select.width, "x");
            plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            show(from - data.start, to - data.start);
          }
        }],
      },
    };
    options.cursor.drag.setScale = false;
    const plot = new uPlot(options, columns, holder);
    plot.over.addEventListener("dblclick", () => show(...whole));
    charts.push(plot);
    drawings.push(() => plot.redraw(false, true) ?? plot.setData(plot.data, true));
  };

  const spans = () => {
    const bins = Math.max(1, Math.ceil(whole[1] / data.step)), times = [], found = {};
    for (let bin = 0; bin < bins; bin += 1) times.push(data.start + bin * data.step);
    for (const name of [...CLASSES, "lost"]) {
      const counts = new Array(bins).fill(0);
      for (const [bin, count] of data.all[name]) if (bin < bins) counts[bin] += count / data.step;
      found[name] = counts;
    }
    return [times, found.violation, found.unknown, found.other, found.lost];
  };
  const drawCharts = (holder) => {
    const bars = { paths: uPlot.paths.stepped({ align: 1 }), points: { show: false }, width: 1.5 };
    const per = (_, value) => value === null ? "-" : String(Math.round(value * 100) / 100);
    chart("per second: violations, unknown and explained changes and outages, probes lost", spans(), [
      { ...bars, label: "violations", stroke: () => css("violation"), value: per },
      { ...bars, label: "unknown", stroke: () => css("unknown"), dash: [6, 3], value: per },
      { ...bars, label: "explained", stroke: () => css("other"), dash: [2, 3], value: per },
      { ...bars, label: "probes lost", stroke: () => css("lost"), value: per },
    ], holder);
    if (data.ticks.some((tick) => tick[3] !== null)) {
      const columns = [data.ticks.map((tick) => data.start + tick[0])];
      for (const at of [2, 3]) columns.push(data.ticks.map((tick) => tick[at]));
      const times = (label, name, dash) => ({ label, stroke: () => css(name), width: 1.5, dash, points: { show: columns[0].length < 60, size: 5 } });
      const [first, next] = data.ticks, period = next ? next[0] - first[0] : first[0];
      const every = `every ${number(period < 2 ? Math.round(10 * period) / 10 : Math.round(period))} s`;
      chart(`${every}: round-trip time in ms`, columns, [times("p50", "other"), times("p99", "time", [6, 3])], holder);
      chart(`${every}: % lost, and sessions without any answer in that time`, [columns[0], data.ticks.map((tick) => tick[1]),
        data.ticks.map((tick) => tick[4])], [times("% lost", "lost"), times("sessions without any answer", "violation", [6, 3])], holder);
    }
  };

  const legend = () => {
    const key = (name, word, shape = "") => {
      const sign = element("i", { className: shape });
      sign.style.setProperty("--c", `var(--${name})`);
      return element("span", { className: "key" }, sign, word);
    };
    return [key("violation", "violation (tallest)"), key("unknown", "unknown", "half"), key("other", "explained or harmless (lower)", "less"),
      key("lost", "lost", "low"), key("time", "p99 round-trip time", "stroke"), key("event", "cluster event", "dashed")];
  };
  const button = (text, title, act) => {
    const made = element("button", { type: "button", textContent: text, title });
    made.addEventListener("click", act);
    return made;
  };

  if (rows.length) {
    section.hidden = false;
    section.append(
      element("h2", { textContent: "Timeline" }),
      element("div", { className: "tools" },
        button("whole run", "also: double click, or 0", () => show(...whole)), button("+", "zoom in (or drag over a range)", () => zoom(0.5)),
        button("−", "zoom out", () => zoom(2)), button("◀", "earlier", () => shift(-0.5)), button("▶", "later", () => shift(0.5)), ...legend()),
      element("div", { className: "drawn" }, canvas), tip);
    drawings.push(draw);
    draw();
    const holder = element("div");
    section.append(holder);
    drawCharts(holder);
    let waiting = 0;
    const resize = () => {
      draw();
      for (const plot of charts) plot.setSize({ width: room(), height: 170 });
    };
    window.addEventListener("resize", () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(resize);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(...range));
    const paper = element("div", { className: "printed" });
    canvas.after(paper);
    window.addEventListener("beforeprint", () => {
      printing = true;
      resize();
      paper.replaceChildren(...slices());
    });
    window.addEventListener("afterprint", () => {
      printing = false;
      paper.replaceChildren();
      resize();
    });
  }

  // --- the table of all sessions -----------------------------------------------------------------------------------------------

  const PAGE = 100;
  const { head, rows: all } = data.table;
  const texts = new Set(["session", "pod", "node", "reflexive address"]);
  if (all.length) {
    const table = document.getElementById("sessions");
    table.hidden = false;
    let by = 1, down = true, page = 0, found = all;
    const filter = element("input", { type: "search", placeholder: "session, pod, node or address" });
    filter.setAttribute("aria-label", "show only sessions with this text");
    const bad = element("input", { type: "checkbox" });
    const count = element("span", { className: "dim" });
    const earlier = button("◀", "the rows before", () => { page -= 1; fill(); });
    const later = button("▶", "the next rows", () => { page += 1; fill(); });
    const body = element("tbody"), heads = element("tr");
    const sorters = head.map((name, column) => {
      const cell = element("th", { className: texts.has(name) ? "text" : "" }, button(name, "sort by this", () => {
        if (by === column) down = !down; else { by = column; down = !texts.has(name); }
        choose();
      }));
      heads.append(cell);
      return cell;
    });
    const fill = () => {
      body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((row) => element("tr", {}, ...row.map((value, column) =>
        element("td", { className: texts.has(head[column]) ? "text" : "", textContent: value === null ? "-" : typeof value === "number" ? number(value) : value })))));
      const last = Math.min(found.length, (page + 1) * PAGE);
      count.textContent = `${found.length ? number(page * PAGE + 1) : 0} to ${number(last)} of ${number(found.length)}`
        + (found.length < all.length ? ` (of ${number(all.length)} in all)` : "");
      earlier.disabled = page === 0;
      later.disabled = last >= found.length;
    };
    const choose = () => {
      const wanted = filter.value.trim().toLowerCase(), named = head.map((name, column) => texts.has(name) ? column : -1).filter((at) => at >= 0);
      found = all.filter((row) => (!bad.checked || row[1] || row[2] || row[5] || row[12] >= 5)
        && (!wanted || named.some((at) => String(row[at] ?? "").toLowerCase().includes(wanted))));
      const sign = down ? -1 : 1;
      found.sort((a, b) => {
        if (a[by] === null || b[by] === null) return (a[by] === null) - (b[by] === null);
        return typeof a[by] === "number" ? sign * (a[by] - b[by]) : sign * (a[by] < b[by] ? -1 : a[by] > b[by] ? 1 : 0);
      });
      sorters.forEach((cell, column) => cell.setAttribute("aria-sort", column !== by ? "none" : down ? "descending" : "ascending"));
      page = 0;
      fill();
    };
    filter.addEventListener("input", choose);
    bad.addEventListener("change", choose);
    table.append(element("h2", { textContent: "Sessions" }),
      element("div", { className: "tools" }, filter, element("label", {}, bad, " only those with changes, losses or silence"),
        element("span", { className: "key" }, earlier, count, later)),
      element("div", { className: "wide" }, element("table", {}, element("thead", {}, heads), body)));
    choose();
  }

  if (location.hash.startsWith("#incident-")) openIncident(location.hash.slice("#incident-".length));
})();
