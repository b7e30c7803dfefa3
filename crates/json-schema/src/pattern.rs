//! Regular expressions of `pattern` and `patternProperties`. They are simulated as NFAs, without backtracking
//! and without caches. Every visited state is charged to the caller's [`Work`].

use regex_automata::nfa::thompson::{Compiler, Config, NFA, State, WhichCaptures};
use regex_automata::util::primitives::StateID;

use super::{TooCostly, Work};

/// Maximum length of a pattern in bytes. It also bounds the size of the pattern after its translation.
const MAX_PATTERN_BYTES: usize = 2_000;

/// Compiled pattern. An unanchored pattern matches anywhere in a text.
#[derive(Debug)]
pub struct Pattern {
    nfa: NFA,
}

impl Pattern {
    /// Compiles an ECMA-262 pattern. Look-around and back-references are not supported.
    ///
    /// # Errors
    /// Returns a sentence if the pattern is invalid, too long, or needs more than `max_bytes` of memory.
    pub fn compile(pattern: &str, max_bytes: usize) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(format!("a pattern can have at most {MAX_PATTERN_BYTES} bytes."));
        }
        let translated = jsonschema_regex::to_rust_regex(pattern);
        let translated =
            translated.map_err(|()| "this is not a regular expression without look-around.".to_owned())?;
        let config =
            Config::new().which_captures(WhichCaptures::None).nfa_size_limit(Some(max_bytes)).shrink(false);
        let nfa = Compiler::new().configure(config).build(&translated).map_err(|error| {
            match error.size_limit() {
                Some(_) => "the patterns of the schema are too large in total.".to_owned(),
                None => "this is not a regular expression.".to_owned(),
            }
        })?;
        Ok(Self { nfa })
    }

    /// Returns the memory of the pattern in bytes.
    pub fn bytes(&self) -> usize {
        self.nfa.memory_usage()
    }

    /// Returns true if the pattern matches anywhere in `text`.
    ///
    /// # Errors
    /// Returns [`TooCostly`] if the budget is used up.
    pub fn is_match(&self, text: &str, work: &mut Work) -> Result<bool, TooCostly> {
        let text = text.as_bytes();
        work.charge(self.nfa.states().len() as u64 / 64)?;
        let mut simulation = Simulation::new(&self.nfa, text);
        simulation.add(self.nfa.start_unanchored(), 0, work)?;
        for (at, &byte) in text.iter().enumerate() {
            if simulation.matched || simulation.active.is_empty() {
                break;
            }
            let active = simulation.begin_step();
            for &id in &active {
                let next = match self.nfa.state(id) {
                    State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
                    State::Sparse(transitions) => {
                        // A sparse state compares its transitions one by one.
                        work.charge(transitions.transitions.len() as u64 / 8)?;
                        transitions.matches_byte(byte)
                    }
                    State::Dense(transitions) => transitions.matches_byte(byte),
                    _ => None,
                };
                work.charge(1)?;
                if let Some(next) = next {
                    simulation.add(next, at + 1, work)?;
                }
            }
            simulation.reuse(active);
        }
        Ok(simulation.matched)
    }
}

/// Running simulation of an NFA on one text, with the set of active states.
struct Simulation<'n> {
    nfa: &'n NFA,
    text: &'n [u8],
    /// Active states that consume a byte.
    active: Vec<StateID>,
    recycled: Vec<StateID>,
    /// Number of the step at which each state was last added.
    added: Vec<u32>,
    step: u32,
    matched: bool,
    pending: Vec<StateID>,
}

impl<'n> Simulation<'n> {
    fn new(nfa: &'n NFA, text: &'n [u8]) -> Self {
        let added = vec![0; nfa.states().len()];
        Self {
            nfa,
            text,
            active: Vec::new(),
            recycled: Vec::new(),
            added,
            step: 1,
            matched: false,
            pending: Vec::new(),
        }
    }

    fn begin_step(&mut self) -> Vec<StateID> {
        self.step += 1;
        std::mem::replace(&mut self.active, std::mem::take(&mut self.recycled))
    }

    fn reuse(&mut self, mut states: Vec<StateID>) {
        states.clear();
        self.recycled = states;
    }

    /// Adds a state and all states that can be reached from it without consuming a byte.
    fn add(&mut self, id: StateID, at: usize, work: &mut Work) -> Result<(), TooCostly> {
        self.pending.push(id);
        while let Some(id) = self.pending.pop() {
            let Some(added) = self.added.get_mut(id.as_usize()).filter(|added| **added != self.step) else {
                continue;
            };
            *added = self.step;
            work.charge(1)?;
            match self.nfa.state(id) {
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) => self.active.push(id),
                State::Look { look, next } => {
                    if self.nfa.look_matcher().matches(*look, self.text, at) {
                        self.pending.push(*next);
                    }
                }
                State::Union { alternates } => self.pending.extend_from_slice(alternates),
                State::BinaryUnion { alt1, alt2 } => self.pending.extend([*alt1, *alt2]),
                State::Capture { next, .. } => self.pending.push(*next),
                State::Fail => {}
                State::Match { .. } => self.matched = true,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_match(pattern: &str, text: &str) -> bool {
        Pattern::compile(pattern, 1 << 20).unwrap().is_match(text, &mut Work::new(1 << 20)).unwrap()
    }

    #[test]
    fn patterns_follow_ecma_262() {
        for (pattern, text, matches) in [
            ("", "", true),
            ("b", "abc", true),
            ("^b", "abc", false),
            ("c$", "abc", true),
            ("^$", "", true),
            ("^$", "a", false),
            (r"\d+", "a1", true),
            (r"^\d$", "٣", false),
            (r"^\p{Letter}+$", "añß", true),
            (r"^\w+$", "añ", false),
            (r"\bfoo\b", "a foo b", true),
            (r"\bfoo\b", "afoob", false),
            ("^(a|bc){2,3}$", "abca", true),
            ("^(a|bc){2,3}$", "abcabc", false),
            ("^.$", "🐲", true),
            ("^[^a]$", "é", true),
        ] {
            assert_eq!(is_match(pattern, text), matches, "pattern {pattern}, text {text}");
        }
    }

    #[test]
    fn too_large_or_unsupported_pattern_is_rejected() {
        assert!(Pattern::compile("(?:a{500}){400}", 1 << 20).unwrap_err().contains("too large"));
        assert!(Pattern::compile(&"a".repeat(MAX_PATTERN_BYTES + 1), 1 << 20).is_err());
        assert!(Pattern::compile(r"(a+)\1", 1 << 20).is_err());
        assert!(Pattern::compile("(?=a)b", 1 << 20).is_err());
    }

    #[test]
    fn pattern_is_charged_for_each_visited_state() {
        let pattern = Pattern::compile("(?:a?){300}a{300}$", 1 << 20).unwrap();
        let text = "a".repeat(20_000);
        assert_eq!(pattern.is_match(&text, &mut Work::new(100_000)), Err(TooCostly));
        assert_eq!(pattern.is_match("aaab", &mut Work::new(100_000)), Ok(false));
    }

    proptest! {
        #[test]
        fn simulation_agrees_with_the_regex_crate(pattern in "[ab.^$|()*+?\\[\\]]{0,12}", text in "[abc\n]{0,12}") {
            if let (Ok(ours), Ok(theirs)) = (Pattern::compile(&pattern, 1 << 20), jsonschema_regex::to_rust_regex(&pattern)) {
                let theirs = regex::Regex::new(&theirs).unwrap();
                prop_assert_eq!(ours.is_match(&text, &mut Work::new(1 << 20)).unwrap(), theirs.is_match(&text));
            }
        }
    }
}
