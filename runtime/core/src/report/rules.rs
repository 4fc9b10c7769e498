//! Which strategy a reading falls under: the most specific rule wins.

use std::cmp::Reverse;

use super::Strategy;

/// Names a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every name.
    Any,
    /// This name.
    Exact(Box<str>),
    /// Names of this form: `*` stands for any characters or none, everything else for itself.
    Glob(Box<str>),
}

impl Pattern {
    /// Reads `text`: `*` alone is any name, with a `*` in it a form, otherwise a name.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if text == "*" {
            Self::Any
        } else if text.contains('*') {
            Self::Glob(text.into())
        } else {
            Self::Exact(text.into())
        }
    }

    /// Whether `name` is one of them.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *name,
            Self::Glob(form) => has_form(form.as_bytes(), name.as_bytes()),
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Glob(_) => 1,
            Self::Exact(_) => 2,
        }
    }
}

/// Goes back at most to the last star: what an earlier star took, the last one can take as well.
fn has_form(form: &[u8], name: &[u8]) -> bool {
    let (mut at_form, mut at_name) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at_name < name.len() {
        if form.get(at_form) == Some(&b'*') {
            star = Some((at_form + 1, at_name));
            at_form += 1;
        } else if form.get(at_form) == name.get(at_name) {
            at_form += 1;
            at_name += 1;
        } else if let Some((after_star, taken)) = star {
            star = Some((after_star, taken + 1));
            (at_form, at_name) = (after_star, taken + 1);
        } else {
            return false;
        }
    }
    form.iter().skip(at_form).all(|byte| *byte == b'*')
}

/// What holds for some devices and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The devices.
    pub device: Pattern,
    /// Their keys.
    pub key: Pattern,
    /// How their readings are reported.
    pub strategy: Strategy,
}

/// Everything that holds for one connector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// The most specific first.
    rules: Vec<Rule>,
    otherwise: Strategy,
}

impl Rules {
    /// `rules`, and `otherwise` where none of them holds. A rule about a key wins over one about a device, a name over a
    /// form, and among equals the one that comes first.
    #[must_use]
    pub fn new(mut rules: Vec<Rule>, otherwise: Strategy) -> Self {
        rules.sort_by_key(|rule| Reverse((rule.key.rank(), rule.device.rank())));
        Self { rules, otherwise }
    }

    /// How readings of `device` and `key` are reported.
    #[must_use]
    pub fn strategy(&self, device: &str, key: &str) -> Strategy {
        self.rules
            .iter()
            .find(|rule| rule.key.matches(key) && rule.device.matches(device))
            .map_or(self.otherwise, |rule| rule.strategy)
    }

    /// Whether there is nothing to filter.
    #[must_use]
    pub fn pass_everything(&self) -> bool {
        let strategies = self.rules.iter().map(|rule| rule.strategy);
        strategies
            .chain([self.otherwise])
            .all(|strategy| strategy == Strategy::OnReceived)
    }
}
