//! Scores by the rules of Mozilla's HTTP Observatory for a single response. Sends no requests.
//!
//! Names and modifiers are those of the Observatory's `SCORE_TABLE` (mdn-http-observatory,
//! `src/grader/charts.js`). Rules that need more than one response (redirection to HTTPS, preloading) are
//! left out.

use http::HeaderMap;

/// Minimum `max-age` of HSTS in seconds (six months), below which there is a penalty.
const MIN_HSTS_MAX_AGE_S: u64 = 15_768_000;

/// Score that a response gets for one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleScore {
    /// Name of the rule, such as `strict-transport-security`.
    pub rule: &'static str,
    /// Points added to the base of 100. Negative values are penalties.
    pub modifier: i32,
}

/// Returns the score of a response for each rule.
pub fn rule_scores(headers: &HeaderMap, body: &str) -> Vec<RuleScore> {
    let of = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let csp = Policy::parse(of("content-security-policy"));
    let modifiers = [
        ("content-security-policy", csp.modifier()),
        ("cookies", if of("set-cookie").is_empty() { 0 } else { -40 }),
        ("cross-origin-resource-policy", corp(of("cross-origin-resource-policy"))),
        ("cross-origin-resource-sharing", cors(headers)),
        ("referrer-policy", referrer(of("referrer-policy"))),
        ("strict-transport-security", hsts(of("strict-transport-security"))),
        ("subresource-integrity", if loads_foreign_scripts(body) { -50 } else { 0 }),
        ("x-content-type-options", if of("x-content-type-options") == "nosniff" { 0 } else { -5 }),
        ("x-frame-options", frames(of("x-frame-options"), &csp)),
    ];
    modifiers.map(|(rule, modifier)| RuleScore { rule, modifier }).into()
}

/// Returns the total score. Bonuses count only if the score without them is at least 90.
pub fn score(scores: &[RuleScore]) -> i32 {
    let sum =
        |of: fn(&i32) -> bool| scores.iter().map(|rule_score| rule_score.modifier).filter(of).sum::<i32>();
    let base = 100 + sum(|modifier| *modifier < 0);
    (if base >= 90 { base + sum(|modifier| *modifier > 0) } else { base }).max(0)
}

/// Returns the grade for a score, as in the Observatory's `GRADE_CHART`.
pub fn grade(score: i32) -> &'static str {
    match score {
        100.. => "A+",
        90.. => "A",
        85.. => "A-",
        80.. => "B+",
        70.. => "B",
        65.. => "B-",
        60.. => "C+",
        50.. => "C",
        45.. => "C-",
        40.. => "D+",
        30.. => "D",
        25.. => "D-",
        _ => "F",
    }
}

/// Parsed Content-Security-Policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy(Vec<(String, Vec<String>)>);

impl Policy {
    /// Parses the directives. If a directive is repeated, the first one applies (CSP 3, 2.2.1).
    pub fn parse(text: &str) -> Self {
        let mut directives: Vec<(String, Vec<String>)> = Vec::new();
        for directive in text.split(';') {
            let mut words = directive.split_ascii_whitespace().map(str::to_ascii_lowercase);
            let Some(name) = words.next() else { continue };
            if directives.iter().all(|(known, _)| *known != name) {
                directives.push((name, words.collect()));
            }
        }
        Self(directives)
    }

    /// Returns the sources of a directive. Returns `None` if the directive is absent.
    pub fn sources(&self, directive: &str) -> Option<&[String]> {
        self.0.iter().find(|(name, _)| name == directive).map(|(_, sources)| &**sources)
    }

    /// Returns the sources of a fetch directive. If it is absent, returns those of `default-src`.
    pub fn fetches(&self, directive: &str) -> Option<&[String]> {
        self.sources(directive).or_else(|| self.sources("default-src"))
    }

    /// Returns the first source that begins with `unsafe-`, together with its directive.
    pub fn unsafe_source(&self) -> Option<(&str, &str)> {
        let all = self.0.iter().flat_map(|(name, sources)| sources.iter().map(move |one| (&**name, &**one)));
        all.into_iter().find(|(_, source)| source.starts_with("'unsafe-"))
    }

    fn modifier(&self) -> i32 {
        let is = |sources: Option<&[String]>, word: &str| matches!(sources, Some([one]) if one == word);
        let Some(scripts) = self.fetches("script-src") else { return -25 };
        let opens = ["'unsafe-inline'", "'unsafe-eval'", "data:", "http:", "https:", "*"];
        let objects = self.fetches("object-src").unwrap_or_default();
        let is_open = |sources: &[String]| sources.iter().any(|source| opens.contains(&&**source));
        if is_open(scripts) || is_open(objects) {
            return -20;
        }
        let forms = self.sources("form-action");
        let is_tight = is(forms, "'none'") || is(forms, "'self'");
        match self.unsafe_source() {
            Some(_) => 0,
            None if is(self.sources("default-src"), "'none'") && is_tight => 10,
            None => 5,
        }
    }
}

fn corp(policy: &str) -> i32 {
    match policy {
        "same-origin" | "same-site" => 10,
        "" | "cross-origin" => 0,
        _ => -5,
    }
}

fn cors(headers: &HeaderMap) -> i32 {
    let of = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_open = of("access-control-allow-origin").is_some();
    if is_open && of("access-control-allow-credentials") == Some("true") { -50 } else { 0 }
}

fn referrer(policy: &str) -> i32 {
    match policy {
        "no-referrer" | "same-origin" | "strict-origin" | "strict-origin-when-cross-origin" => 5,
        "" => 0,
        _ => -5,
    }
}

/// Scores −20 if HSTS is missing or malformed, and −10 if its max-age is below six months.
fn hsts(value: &str) -> i32 {
    let max_age = value.split(';').find_map(|part| part.trim().strip_prefix("max-age=")?.parse::<u64>().ok());
    match max_age {
        None => -20,
        Some(seconds) if seconds < MIN_HSTS_MAX_AGE_S => -10,
        Some(_) => 0,
    }
}

fn frames(options: &str, csp: &Policy) -> i32 {
    let ancestors = csp.sources("frame-ancestors");
    match options {
        _ if matches!(ancestors, Some([one]) if one == "'none'" || one == "'self'") => 5,
        "DENY" | "SAMEORIGIN" => 0,
        _ => -20,
    }
}

/// Returns true if the page loads a script from another origin without an integrity hash.
fn loads_foreign_scripts(body: &str) -> bool {
    let tags = body.split("<script").skip(1).map(|rest| rest.split('>').next().unwrap_or_default());
    tags.into_iter().any(|tag| {
        let source = tag.split("src=").nth(1).unwrap_or_default().trim_start_matches(['"', '\'']);
        let is_foreign =
            source.starts_with("http:") || source.starts_with("https:") || source.starts_with("//");
        is_foreign && !tag.contains("integrity=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn modifier(rule: &str, of: &[(&'static str, &'static str)], body: &str) -> i32 {
        rule_scores(&headers(of), body).iter().find(|rule_score| rule_score.rule == rule).unwrap().modifier
    }

    #[test]
    fn missing_and_permissive_headers_are_penalized() {
        assert_eq!(score(&rule_scores(&HeaderMap::new(), "<script src=https://x.example/x.js>")), 0);
        let csp = |policy| modifier("content-security-policy", &[("content-security-policy", policy)], "");
        assert_eq!(csp("default-src 'self' 'unsafe-inline'"), -20);
        assert_eq!(csp("default-src 'none'; script-src https:"), -20);
        assert_eq!(csp("script-src 'self'"), 5);
        assert_eq!(csp("default-src 'none'; style-src 'unsafe-inline'"), 0);
        assert_eq!(csp("default-src 'none'; img-src data:; form-action 'none'"), 10);
        assert_eq!(csp("img-src 'self'"), -25);
        let hsts = |value| modifier("strict-transport-security", &[("strict-transport-security", value)], "");
        assert_eq!((hsts("max-age=63072000"), hsts("max-age=60"), hsts("")), (0, -10, -20));
        let open = [("access-control-allow-origin", "*"), ("access-control-allow-credentials", "true")];
        assert_eq!(modifier("cross-origin-resource-sharing", &open, ""), -50);
        let sri = |body| modifier("subresource-integrity", &[], body);
        assert_eq!((sri("<script src=\"/own.js\">"), sri("<script src=\"//cdn.example/x\">")), (0, -50));
    }

    #[test]
    fn grade_boundaries_match_chart() {
        let grades = [130, 100, 99, 90, 85, 80, 70, 24, 0].map(grade);
        assert_eq!(grades, ["A+", "A+", "A", "A", "A-", "B+", "B", "F", "F"]);
    }

    #[test]
    fn first_of_repeated_directives_applies() {
        let policy = Policy::parse("default-src 'none'; script-src 'self'; Script-Src *");
        assert_eq!(policy.sources("script-src").unwrap(), ["'self'"]);
        assert_eq!(
            (policy.unsafe_source(), policy.fetches("img-src").unwrap()),
            (None, &["'none'".to_owned()][..])
        );
    }
}
