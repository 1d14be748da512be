"""Whether the words of a figure can be read."""

from matplotlib.backends.backend_agg import FigureCanvasAgg


def shown_ticks(axis):
    """Labels of the ticks within view; matplotlib keeps some beyond it."""
    low, high = sorted(axis.get_view_interval())
    return [label for at, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True) if low <= at <= high]


def texts_overlap(figure) -> list[str]:
    """Pairs of tick labels, titles and axis labels that cover each other, and what leaves the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = []
    for axes in figure.axes:
        parts = [*shown_ticks(axes.xaxis), *shown_ticks(axes.yaxis), axes.xaxis.label, axes.yaxis.label, axes.title]
        parts = [
            part
            for part in [*parts, *(text for text in axes.texts if len(text.get_text()) > 1)]
            if part.get_text().strip() and part.get_visible()
        ]
        boxes = [(part.get_text(), part.get_window_extent(renderer)) for part in parts]
        if axes.get_legend():
            boxes.append(("legend", axes.get_legend().get_window_extent(renderer)))
        for i, (text, box) in enumerate(boxes):
            if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1:
                found.append(f"{text!r} leaves the figure")
            found += [f"{text!r} on {other!r}" for other, b in boxes[i + 1 :] if box.padded(-2).overlaps(b.padded(-2))]
    return found
