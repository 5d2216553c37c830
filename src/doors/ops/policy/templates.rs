//! Rights to begin with: three files that a person fills in.

/// A template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Name.
    pub name: &'static str,
    /// For whom it is.
    pub about: &'static str,
    /// What goes into `sigil.toml`.
    pub toml: &'static str,
}

/// All of them.
pub const TEMPLATES: [Template; 3] = [
    Template {
        name: "solo",
        about: "one person: everything is yours, and agents ask before they do more than look",
        toml: include_str!("templates/solo.toml"),
    },
    Template {
        name: "family",
        about: "parents, children and guests: doors, cameras and where somebody is are asked for",
        toml: include_str!("templates/family.toml"),
    },
    Template {
        name: "homelab",
        about: "who runs machines with others: agents look, and ask before they restart",
        toml: include_str!("templates/homelab.toml"),
    },
];

/// The template of this name.
#[must_use]
pub fn template(name: &str) -> Option<&'static Template> {
    TEMPLATES.iter().find(|template| template.name == name)
}
