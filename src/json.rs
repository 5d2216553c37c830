//! JSON before it is parsed.

/// True if brackets nest deeper than `max`, found without parsing: strings are skipped, pairs are not matched.
#[must_use]
pub fn deeper_than(json: &[u8], max: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert!(!deeper_than(nested(64).as_bytes(), 64));
        assert!(deeper_than(nested(65).as_bytes(), 64));
        assert!(deeper_than(nested(10_000).as_bytes(), 64));
        assert!(!deeper_than(br#""[[[[\"[[[[""#, 1));
        assert!(!deeper_than(br"[[],[],[]]", 2));
    }

    proptest! {
        #[test]
        fn depth_agrees_with_a_parser(depth in 0usize..100, text in "[\\[\\]{}\"\\\\a]{0,20}") {
            let json = format!("{}{}{}", "[".repeat(depth), serde_json::to_string(&text).unwrap(), "]".repeat(depth));
            prop_assert_eq!(deeper_than(json.as_bytes(), 64), depth > 64);
        }
    }
}
