/** Prompts that small models answer at some length. */
export const chatPrompts: readonly string[] = [
  'Explain how a rainbow forms.',
  'Give me five tips for sleeping better.',
  'Write a short story about a lighthouse keeper and a storm.',
  'What is the difference between a list and a tuple in Python?',
  'Describe the water cycle to a child.',
  'Write an email to a colleague asking to move our meeting to Thursday.',
];

const passages: readonly string[] = [
  'The library opens at nine in the morning and closes at six in the evening. On Saturdays it opens at ten. Visitors may borrow up to five books at a time, and each book may be kept for three weeks. Late books cost ten cents a day.',
  'Honey bees live in colonies of up to sixty thousand. A colony has one queen, who lays all the eggs, and many workers, who gather nectar and pollen. In winter the bees form a cluster around the queen and shiver to keep her warm.',
  'Dear Mr. Howard, thank you for your order of the third of May. The two oak chairs left our workshop on Monday and should reach you within a week. Please check them on arrival and tell us at once if anything is damaged.',
  'The first bridge over the river was made of wood and was washed away in the flood of 1822. The second, of stone, stood for ninety years. The present bridge of steel was opened in 1931 and carries both trains and cars.',
  'function total(items) {\n  let sum = 0;\n  for (const item of items) {\n    sum += item.price * item.count;\n  }\n  return sum;\n}\n\nfunction average(items) {\n  return total(items) / items.length;\n}',
  'Mix the flour, the sugar and a pinch of salt in a large bowl. Add the butter in small pieces and rub it in with your fingers. Stir in the egg and two spoons of cold water. Let the dough rest in a cool place for an hour.',
];

/** Prompts whose answer repeats most of what they contain. */
export const editPrompts: readonly string[] = passages.map(
  (passage) => `Correct the spelling of this text. Repeat the whole text and change nothing else.\n\n${passage}`,
);
