//! Colours of numbered things: seven that people with any kind of colour vision tell apart (Okabe and Ito, "Color Universal
//! Design", 2008).

/// Red, green and blue of each.
pub(crate) const COLOURS: [[u8; 3]; 7] =
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];

/// The colour of the thing with this number, from 1.
pub(crate) fn colour(number: i64) -> [u8; 3] {
    COLOURS[(number - 1).rem_euclid(COLOURS.len() as i64) as usize]
}

/// The colour of text on this colour: black or white, whichever is easier to read.
pub(crate) fn ink([red, green, blue]: [u8; 3]) -> [u8; 3] {
    // The brightness as ITU-R BT.601 weighs it, in thousandths.
    let brightness = 299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue);
    if brightness > 100_000 { [0; 3] } else { [255; 3] }
}

/// The colour as CSS writes it.
pub(crate) fn css([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance, as WCAG 2 defines it.
    fn luminance(colour: [u8; 3]) -> f64 {
        let linear = |value: u8| {
            let share = f64::from(value) / 255.0;
            if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
        };
        let [red, green, blue] = colour.map(linear);
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    #[test]
    fn text_on_every_colour_has_the_contrast_that_wcag_asks_for() {
        for fill in COLOURS {
            let (a, b) = (luminance(fill), luminance(ink(fill)));
            let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
            assert!(contrast >= 4.5, "{fill:?}: {contrast}");
        }
    }

    #[test]
    fn numbers_have_the_colours_in_turn() {
        assert_eq!([1, 2, 8].map(colour), [COLOURS[0], COLOURS[1], COLOURS[0]]);
    }
}
