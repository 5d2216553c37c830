//! References to images.

use std::fmt;
use std::str::FromStr as _;

use oci_spec::distribution::Reference;

/// Longest reference: its parts have limits of their own in the specification.
const REFERENCE_BYTES_MAX: usize = 512;

/// A reference to an image, whole: with its registry, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image(String);

/// A text that is no reference to an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it must be the reference of an image, such as ghcr.io/org/tool:1.2 or docker.io/library/python@sha256:…: {0}")]
pub struct InvalidImage(pub String);

impl Image {
    /// The whole reference.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if it names one image for ever: by its digest.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.0.contains('@')
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a reference to an image, by the grammar of the distribution specification. A short name means Docker Hub, no tag
/// means `latest`.
///
/// # Errors
/// It is not one: empty, a path, or out of its limits.
pub fn validate_image(text: &str) -> Result<Image, InvalidImage> {
    if text.is_empty() {
        return Err(InvalidImage("it is empty".to_owned()));
    }
    if text.len() > REFERENCE_BYTES_MAX {
        return Err(InvalidImage(format!("it is longer than {REFERENCE_BYTES_MAX} bytes")));
    }
    let reference = Reference::from_str(text).map_err(|error| InvalidImage(error.to_string()))?;
    // What looks like a host without a dot is a part of the name, whose capitals the parser then lets through.
    if reference.repository().bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(InvalidImage("a name has no capitals".to_owned()));
    }
    Ok(Image(reference.whole()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seed_c3_image_references() {
        let digest = format!("ghcr.io/org/photo@sha256:{}", "0a".repeat(32));
        let both = format!("ghcr.io/org/photo:1.2@sha256:{}", "0a".repeat(32));
        for whole in ["ghcr.io/org/tool:latest", "docker.io/library/python:3.12", "localhost:5000/x:1", &digest, &both]
        {
            assert_eq!(validate_image(whole).as_ref().map(Image::as_str), Ok(whole));
        }
        assert_eq!(
            validate_image("python").map(|image| image.to_string()).as_deref(),
            Ok("docker.io/library/python:latest")
        );
        assert!(validate_image(&digest).is_ok_and(|image| image.is_pinned()));
        assert!(validate_image("ghcr.io/org/tool:latest").is_ok_and(|image| !image.is_pinned()));
        let (long, short_digest) = ("a".repeat(600), "x@sha256:0a0a");
        for bad in [
            "",
            "../relative/path",
            "./x",
            "/abs/path",
            "UPPER/case",
            "a b",
            "a:b:c",
            "x@sha256:",
            short_digest,
            &long,
            "x\n",
        ] {
            assert!(validate_image(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_reads_back(text in "[a-zA-Z0-9./:@_-]{0,40}") {
            if let Ok(image) = validate_image(&text) {
                prop_assert_eq!(validate_image(image.as_str()), Ok(image));
            }
        }
    }
}
