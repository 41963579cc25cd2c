"""Classes by name or by number, as users give them."""

from collections.abc import Sequence

from tfgan_mnist.errors import UserError

MAX_NAMES_SHOWN = 20


def parse(text: str, class_names: Sequence[str], num_classes: int | None) -> list[int]:
    """Labels from a list such as "trouser,coat" or "2,0,2,6".

    Args:
      text: names or numbers with commas between them. A name that is a number counts as a name.
        Where no name is spelled exactly so, upper and lower case are the same.
      class_names: by label; empty where they are the numbers.
      num_classes: None where it is not known.

    Raises:
      UserError: what is neither a name nor a number of a class.
    """
    return [_label(item.strip(), class_names, num_classes) for item in text.split(",")]


def _label(item: str, class_names: Sequence[str], num_classes: int | None) -> int:
    for names in (list(class_names), [name.casefold() for name in class_names]):
        if item in names:
            return names.index(item)
        item = item.casefold()
    end = num_classes or 2**31
    try:
        label = int(item)
    except ValueError as error:
        expected = "integers like 2,0,2,6"
        if class_names:
            more = ", ..." if len(class_names) > MAX_NAMES_SHOWN else ""
            expected = f"classes of {', '.join(class_names[:MAX_NAMES_SHOWN])}{more}"
        raise UserError(f"--labels: expected {expected}; received {item!r}") from error
    if not 0 <= label < end:
        raise UserError(f"--labels: expected 0..{end - 1}; received {label}")
    return label
