const days = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const months = [
  ...['January', 'February', 'March', 'April', 'May', 'June'],
  ...['July', 'August', 'September', 'October', 'November', 'December'],
];

/** Python's `strftime` in the C locale and local time: a template's date must not follow the machine's language. */
export function strftime(now: Date, format: string): string {
  const pad = (value: number, width = 2, fill = '0') => String(value).padStart(width, fill);
  const year = now.getFullYear();
  const hour = now.getHours();
  const hour12 = hour % 12 || 12;
  const dayOfYear = Math.round((Date.UTC(year, now.getMonth(), now.getDate()) - Date.UTC(year, 0, 0)) / 86_400_000);
  const week = (firstDay: number) => Math.floor((dayOfYear + 6 - ((now.getDay() - firstDay + 7) % 7)) / 7);
  const fields: Record<string, string | number> = {
    a: days[now.getDay()]!.slice(0, 3),
    A: days[now.getDay()]!,
    b: months[now.getMonth()]!.slice(0, 3),
    B: months[now.getMonth()]!,
    h: months[now.getMonth()]!.slice(0, 3),
    d: pad(now.getDate()),
    e: pad(now.getDate(), 2, ' '),
    f: pad(now.getMilliseconds() * 1000, 6),
    H: pad(hour),
    I: pad(hour12),
    j: pad(dayOfYear, 3),
    m: pad(now.getMonth() + 1),
    M: pad(now.getMinutes()),
    p: hour < 12 ? 'AM' : 'PM',
    S: pad(now.getSeconds()),
    u: now.getDay() || 7,
    U: pad(week(0)),
    w: now.getDay(),
    W: pad(week(1)),
    y: pad(year % 100),
    Y: year,
    n: '\n',
    t: '\t',
    '%': '%',
  };
  fields.D = `${fields.m}/${fields.d}/${fields.y}`;
  fields.F = `${fields.Y}-${fields.m}-${fields.d}`;
  fields.R = `${fields.H}:${fields.M}`;
  fields.T = `${fields.R}:${fields.S}`;
  fields.X = fields.T;
  fields.x = fields.D;
  fields.c = `${fields.a} ${fields.b} ${fields.e} ${fields.T} ${fields.Y}`;
  return format.replace(/%(-?)([a-zA-Z%])/g, (match, bare, field) => {
    if (!Object.hasOwn(fields, field)) return match;
    const shown = String(fields[field]);
    return bare ? shown.replace(/^[0 ]+(?=.)/, '') : shown;
  });
}
