use super::super::tests::from_text;
use super::*;

const GITHUB: &str =
    "{issuer: \"https://token.actions.githubusercontent.com\", audience: registry, claims: {repository_owner: org}}";

fn refused(text: &str) -> String {
    from_text(text).map_or_else(|error| error.to_string(), |_| String::new())
}

fn with_provider(provider: &str) -> String {
    refused(&format!("auth:\n  oidc:\n    ci: {provider}\n"))
}

#[test]
fn a_provider_needs_an_issuer_an_audience_and_something_to_claim() {
    assert_eq!(with_provider(GITHUB), "");
    let many =
        "{issuer: \"https://gitlab.example\", audience: a, claims: {ref: [main, \"v*\"], sub: \"*\"}, identity: sub}";
    assert_eq!(with_provider(many), "");
    for (provider, reason) in [
        ("{audience: a, claims: {sub: x}}", "needs the key `issuer`"),
        ("{issuer: \"https://a.example\", claims: {sub: x}}", "needs the key `audience`"),
        ("{issuer: \"https://a.example\", audience: a}", "says nothing of what a token must claim"),
        ("{issuer: \"https://a.example\", audience: a, claims: {sub: []}}", "must have an entry"),
        ("{issuer: \"https://a.example\", audience: a, claims: {sub: \"[\"}}", "is not a pattern"),
        ("{issuer: \"https://a.example\", audience: a, claims: {sub: x}, identity: \"\"}", "needs the key `identity`"),
        ("{issuer: nonsense, audience: a, claims: {sub: x}}", "not a URL"),
        ("{issuer: \"http://a.example\", audience: a, claims: {sub: x}}", "must be https://"),
        ("{issuer: \"https://a.example?x\", audience: a, claims: {sub: x}}", "no query"),
        ("{issuer: \"https://a.example\", jwks_uri: \"http://b\", audience: a, claims: {sub: x}}", "must be https://"),
        ("{issuer: \"https://a.example\", audience: a, claims: {sub: x}, ca: /none}", "cannot read"),
        ("{issuer: \"https://a.example\", audience: a, claims: {sub: x}, keys_lifetime: 0s}", "more than 0"),
        ("{issuer: \"https://a.example\", audience: a, claims: {sub: x}, secret: x}", "unknown key"),
    ] {
        let said = with_provider(provider);
        assert!(said.contains(reason) && said.starts_with("config.yaml:3:"), "{provider}: {said}");
    }
    for insecure in ["http://127.0.0.1:1\", ", "http://localhost\", ", "http://a.example\", insecure: true, "] {
        assert_eq!(with_provider(&format!("{{issuer: \"{insecure}audience: a, claims: {{sub: x}}}}")), "");
    }
}

#[test]
fn names_that_could_be_taken_for_subjects_are_refused() {
    for name in ["repo", "system", "project_path", "\"a:b\"", "\"a b\"", "\"\""] {
        let said = refused(&format!("auth:\n  oidc:\n    {name}: {GITHUB}\n"));
        assert!(said.contains("a provider's name"), "{name}: {said}");
    }
    let said = refused(&format!("auth:\n  oidc:\n    one: {GITHUB}\n    two: {GITHUB}\n"));
    assert!(said.contains("one has the same issuer and audience"), "{said}");
}

#[test]
fn a_rule_names_the_provider_unless_there_is_one_alone() {
    let rule = |who: &str| format!("  rules: [{{repositories: [\"a/**\"], identities: [\"{who}\"], allow: [push]}}]\n");
    let one = format!("auth:\n  oidc:\n    ci: {GITHUB}\n");
    let two = format!("{one}    lab: {}\n", GITHUB.replace("registry", "lab"));
    for (providers, who, expected) in [
        (&one, "oidc:repo:org/*", Ok(("ci", "repo:org/*"))),
        (&one, "oidc:ci:repo:org/*", Ok(("ci", "repo:org/*"))),
        (&two, "oidc:lab:repo:org/*", Ok(("lab", "repo:org/*"))),
        (&two, "oidc:repo:org/*", Err("no provider is named here: write oidc:PROVIDER:SUBJECT with one of ci, lab")),
        (&"auth:\n".to_owned(), "oidc:repo:org/*", Err("no provider is named here")),
        (&one, "oidc:ci:[", Err("is not a pattern")),
    ] {
        match (from_text(&format!("{providers}{}", rule(who))), expected) {
            (Ok(config), Ok(expected)) => {
                let auth = config.auth.unwrap();
                let Who::Job(text) = &auth.rules[0].identities[0] else { panic!("{who} is a job") };
                assert_eq!(auth.jobs(text), Ok(expected));
            }
            (Err(error), Err(reason)) => assert!(error.to_string().contains(reason), "{who}: {error}"),
            (found, expected) => panic!("{who}: {found:?}, not {expected:?}"),
        }
    }
}

#[test]
fn a_star_in_a_subject_is_anything() {
    let pattern = units::text_glob("repo:org/*").unwrap().compile_matcher();
    for subject in ["repo:org/app", "repo:org/app:ref:refs/heads/main", "repo:org/app:environment:prod"] {
        assert!(pattern.is_match(subject), "{subject}");
    }
    for subject in ["repo:organisation/app", "xrepo:org/app", "Repo:org/app", "repo:ORG/app", "repo:org"] {
        assert!(!pattern.is_match(subject), "{subject}");
    }
}
