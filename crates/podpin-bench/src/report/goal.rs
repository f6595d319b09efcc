//! The goals that stand beside figures, and whether podpin's figure meets them.

use crate::peer_kind::PeerKind;

/// The bound that podpin's figure is to keep.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No more than the figure of that peer in the same run.
    AtMostPeer(PeerKind),
    /// No more than so many times podpin's figure in another row of the run.
    AtMostRow {
        /// The name of the other row.
        name: String,
        /// As the table calls it.
        shown: &'static str,
        times: f64,
    },
    /// Nothing, because the proxy refuses.
    Refused,
}

/// Figures of the run that goals refer to.
pub(super) trait Figures {
    /// Returns the median of `peer` in the same row, if it has one.
    fn of_peer(&self, peer: PeerKind) -> Option<f64>;
    /// Returns podpin's median in the row of that name, if there is one.
    fn of_row(&self, name: &str) -> Option<f64>;
}

impl Goal {
    /// Returns the goal as the table shows it, with the word "missed" if podpin's figure is beyond it.
    pub(super) fn shown(&self, digits: usize, figures: &impl Figures) -> String {
        let (text, bound) = match self {
            Self::AtMost(bound) => (format!("≤ {bound:.digits$}"), Some(*bound)),
            Self::AtMostPeer(peer) => (format!("≤ {}", peer.name()), figures.of_peer(*peer)),
            Self::AtMostRow { name, shown, times } => {
                (format!("≤ {shown}"), figures.of_row(name).map(|figure| figure * times))
            }
            Self::Refused => ("refused".to_owned(), Some(f64::NEG_INFINITY)),
        };
        let is_missed = |figure| bound.is_some_and(|bound| figure > bound);
        let missed = figures.of_peer(PeerKind::Podpin).is_some_and(is_missed);
        if missed { text + ", missed" } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Figures for Fixed {
        fn of_peer(&self, peer: PeerKind) -> Option<f64> {
            match peer {
                PeerKind::Podpin => Some(10.0),
                PeerKind::Nginx => Some(9.0),
                PeerKind::Haproxy => Some(11.0),
                _ => None,
            }
        }

        fn of_row(&self, name: &str) -> Option<f64> {
            (name == "HTTP/1.1").then_some(9.6)
        }
    }

    #[test]
    fn a_goal_says_when_it_is_missed_and_nothing_more_without_a_figure_to_compare_with() {
        let row =
            |name: &str, times| Goal::AtMostRow { name: name.to_owned(), shown: "1.05 × HTTP/1.1", times };
        let cases = [
            (Goal::AtMost(10.0), "≤ 10.0"),
            (Goal::AtMost(9.9), "≤ 9.9, missed"),
            (Goal::AtMostPeer(PeerKind::Haproxy), "≤ haproxy"),
            (Goal::AtMostPeer(PeerKind::Nginx), "≤ nginx, missed"),
            (Goal::AtMostPeer(PeerKind::Envoy), "≤ envoy"),
            (row("HTTP/1.1", 1.05), "≤ 1.05 × HTTP/1.1"),
            (row("HTTP/1.1", 1.0), "≤ 1.05 × HTTP/1.1, missed"),
            (row("another", 1.0), "≤ 1.05 × HTTP/1.1"),
            (Goal::Refused, "refused, missed"),
        ];
        for (goal, expected) in cases {
            assert_eq!(goal.shown(1, &Fixed), expected);
        }
    }
}
