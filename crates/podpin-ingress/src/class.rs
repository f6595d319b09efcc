//! Classes of what becomes of a setting, from harmless to dangerous, and the protections that may be lost.

use std::fmt;

/// The class of a setting: what becomes of it in podpin. Ordered by how much a person has to look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// podpin needs no such setting.
    NotNeeded,
    /// podpin does the same.
    Exact,
    /// podpin does something close, and the note has the difference.
    Approximate,
    /// podpin cannot do it, and the note has the way around.
    NotSupported,
    /// podpin cannot do it and it protects something: routes are withheld until the loss is allowed.
    Protecting,
}

impl Class {
    /// Every class, the harmless first.
    pub const ALL: [Class; 5] =
        [Self::NotNeeded, Self::Exact, Self::Approximate, Self::NotSupported, Self::Protecting];

    /// Returns the words for the class in reports and documentation.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::NotNeeded => "not needed",
            Self::Approximate => "approximate",
            Self::NotSupported => "not supported",
            Self::Protecting => "protecting",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// What a setting protects by. The names are those of `--allow-loss`, beside names of single settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protection {
    /// Clients have to say who they are.
    Auth,
    /// Clients of some addresses are kept out.
    Addresses,
    /// Clients are held to a rate.
    RateLimits,
    /// Requests are searched for attacks.
    Firewall,
    /// Clients have to show certificates.
    ClientCertificates,
    /// Lines of nginx's own configuration that may protect.
    Snippets,
}

impl Protection {
    /// Every protection.
    pub const ALL: [Protection; 6] = [
        Self::Auth,
        Self::Addresses,
        Self::RateLimits,
        Self::Firewall,
        Self::ClientCertificates,
        Self::Snippets,
    ];

    /// Returns the name for `--allow-loss`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Addresses => "addresses",
            Self::RateLimits => "rate-limits",
            Self::Firewall => "firewall",
            Self::ClientCertificates => "client-certificates",
            Self::Snippets => "snippets",
        }
    }
}
