//! Text that somebody else wrote, made fit to be shown.

/// The same without control characters (lines stay, as spaces) and without characters that have no width or turn the direction
/// of what follows: nothing that people read is hidden from them, or shown as something else.
#[must_use]
pub fn visible(text: &str) -> String {
    let shown = |letter: char| match letter {
        '\n' | '\t' | '\r' => Some(' '),
        _ if letter.is_control() || is_hidden(letter) => None,
        _ => Some(letter),
    };
    text.chars().filter_map(shown).collect()
}

/// As [`visible`], with its lines.
#[must_use]
pub fn visible_lines(text: &str) -> String {
    text.chars().filter(|letter| *letter == '\n' || !(letter.is_control() || is_hidden(*letter))).collect()
}

/// Format characters (Unicode 16, `Cf`) that change what is seen, separators of lines that are none, fillers and tags.
const fn is_hidden(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_gone_and_the_rest_stays() {
        assert_eq!(visible("read\u{200b} a\tfile\u{202e}\u{1b}[1m\r\nnow\u{e0041}"), "read a file[1m  now");
        assert_eq!(visible_lines("a\r\n\u{feff}b\n"), "a\nb\n");
        assert_eq!(visible("Größe 図 é"), "Größe 図 é");
    }
}
