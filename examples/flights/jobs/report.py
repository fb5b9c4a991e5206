"""Makes a small page about the run's day."""

from decimal import Decimal
from html import escape

from pinrail import Context, Job

WIDTH, BAR, LABEL = 640, 22, 180
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 44rem; margin: 2rem auto }
td, th { padding: 0 1rem 0 0; text-align: right }
td:first-child, th:first-child { text-align: left }
rect { fill: #3b6ea5 }
rect.early { fill: #6aa56b }
"""


class DelayReport(Job):
    """A page with a plot: which airline was how late, and what the weather does to it."""

    def execute(self, ctx: Context) -> None:
        delays = ctx.sql(
            """
            select a.name, d.flights, d.cancelled, d.mean_delay
            from marts.daily_delays d join raw.airlines a on a.carrier = d.carrier
            where d.day = {{ ds }} order by d.mean_delay desc nulls last, a.name
            """
        )
        weather = ctx.sql(
            """
            select
                weather,
                sum(flights) as flights,
                sum(cancelled) as cancelled,
                cast(100.0 * sum(late) / sum(flights) as decimal(5, 1)) as percent_late
            from marts.weather_effect group by weather order by percent_late desc, weather
            """
        )
        day = f'{ctx.ds:%d %B %Y}'
        flights, cancelled = sum(row.flights for row in delays), sum(row.cancelled for row in delays)
        page = [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f'<title>Flights from New York, {day}</title>',
            f'<style>{STYLE}</style>',
            f'<h1>Flights from New York, {day}</h1>',
            f'<p>{flights:,} flights, {cancelled:,} of them cancelled. Mean delay at departure, in minutes:</p>',
            bars([(row.name, row.mean_delay) for row in delays if row.mean_delay is not None]),
            '<h2>Weather, all year</h2>',
            '<table><tr><th>weather<th>flights<th>cancelled<th>more than 15 minutes late</tr>',
        ]
        for row in weather:
            cells = [escape(row.weather), f'{row.flights:,}', f'{row.cancelled:,}', f'{row.percent_late} %']
            page.append(f'<tr><td>{"<td>".join(cells)}</tr>')
        page.append('</table></html>')
        ctx.save('report.html', '\n'.join(page))
        ctx.log(f'report.html: {len(delays)} airlines')


def bars(values: list[tuple[str, Decimal]]) -> str:
    """An SVG bar plot: one bar per name, those of negative values in another colour."""
    longest = max((abs(value) for _, value in values), default=Decimal(0)) or Decimal(1)
    lines = [f'<svg viewBox="0 0 {WIDTH} {BAR * len(values)}" role="img" aria-label="mean delay by airline">']
    for index, (name, value) in enumerate(values):
        length = float(abs(value) / longest) * (WIDTH - LABEL - 60)
        middle = BAR * index + BAR // 2
        kind = ' class="early"' if value < 0 else ''
        lines.append(
            f'<text x="{LABEL - 8}" y="{middle}" font-size="13" text-anchor="end" dominant-baseline="middle">'
            f'{escape(name)}</text>'
            f'<rect{kind} x="{LABEL}" y="{middle - 8}" width="{length:.1f}" height="16"/>'
            f'<text x="{LABEL + length + 6:.1f}" y="{middle}" font-size="13" dominant-baseline="middle">{value}</text>'
        )
    return '\n'.join([*lines, '</svg>'])
