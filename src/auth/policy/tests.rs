use globset::{GlobBuilder, GlobSetBuilder};
use proptest::prelude::*;

use super::*;

fn globs(patterns: &[&str]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(GlobBuilder::new(pattern).literal_separator(true).build().unwrap());
    }
    set.build().unwrap()
}

fn rule(repositories: &[&str], who: Vec<Who>, allow: &[Permission]) -> Rule {
    Rule { repositories: globs(repositories), who, allow: allow.iter().copied().collect(), immutable: GlobSet::empty() }
}

fn user_glob(pattern: &str) -> Who {
    Who::User(GlobBuilder::new(pattern).literal_separator(true).build().unwrap().compile_matcher())
}

fn user(name: &str, groups: &[&str]) -> Identity {
    Identity::User { name: name.to_owned(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

use Permission::{Delete, Pull, Push};

const STRANGER: Identity = Identity::anonymous();
const LOCAL: Identity = Identity::Anonymous { is_local: true };

/// Anonymous pull, and rules that close some of it.
fn policy() -> Policy {
    Policy {
        rules: vec![
            rule(&["team-a/**"], vec![Who::Group("team-a".to_owned())], &[Pull, Push, Delete]),
            rule(&["team-a/public"], vec![Who::Anonymous], &[Pull]),
            rule(&["team-a/**", "team-b/**"], vec![user_glob("ci-*")], &[Pull]),
            rule(&["docker.io/library/**"], vec![Who::Authenticated], &[Pull]),
            rule(&["banned/**"], vec![Who::Anonymous], &[]),
            rule(&["here"], vec![Who::Loopback], &[Push]),
            Rule { immutable: globs(&["v*"]), ..rule(&["team-a/**"], vec![], &[]) },
        ],
        members_only: vec!["ghcr.io".parse().unwrap()],
        anonymous: Permissions::PULL,
        local: Permissions::PULL,
        authenticated: [Pull, Push].into_iter().collect(),
        admins: vec![Who::Group("ops".to_owned()), user_glob("root")],
    }
}

#[test]
fn the_first_rule_about_repository_and_identity_decides() {
    let alice = user("alice", &["team-a"]);
    let bob = user("bob", &[]);
    let ci = user("ci-1", &[]);
    let robot = Identity::Robot {
        name: "ci".to_owned(),
        grant: Grant { repositories: globs(&["team-a/app"]), allow: [Pull, Push].into_iter().collect() },
    };
    let policy = policy();
    let all: &[Permission] = &[Pull, Push, Delete];
    for (identity, repository, allowed, source) in [
        (&alice, &["team-a/app"][..], all, Source::Rule(0)),
        (&bob, &["team-a/app"], &[][..], Source::Closed),
        (&STRANGER, &["team-a/app"], &[], Source::Closed),
        (&STRANGER, &["team-a/public"], &[Pull], Source::Rule(1)),
        (&bob, &["team-a/public"], &[Pull], Source::Rule(1)),
        (&alice, &["team-a/public"], all, Source::Rule(0)),
        (&ci, &["team-a/app"], &[Pull], Source::Rule(2)),
        (&ci, &["team-b/app"], &[Pull], Source::Rule(2)),
        (&bob, &["other/app"], &[Pull, Push], Source::Default),
        (&STRANGER, &["other/app"], &[Pull], Source::Default),
        (&LOCAL, &["other/app"], &[Pull], Source::Default),
        (&LOCAL, &["here"], &[Push], Source::Rule(5)),
        (&STRANGER, &["here"], &[], Source::Closed),
        (&bob, &["here"], &[], Source::Closed),
        // A rule that allows nothing shuts out, signed in or not.
        (&STRANGER, &["banned/x"], &[], Source::Rule(4)),
        (&alice, &["banned/x"], &[], Source::Rule(4)),
        // Any of a repository's names brings it under a rule.
        (&STRANGER, &["docker.io/library/nginx", "library/nginx", "nginx"], &[], Source::Closed),
        (&bob, &["docker.io/library/nginx", "library/nginx", "nginx"], &[Pull], Source::Rule(3)),
        (&STRANGER, &["docker.io/team-a/app", "team-a/app"], &[], Source::Closed),
        // Upstreams for members.
        (&STRANGER, &["ghcr.io/org/app"], &[], Source::Upstream),
        (&LOCAL, &["ghcr.io/org/app"], &[], Source::Upstream),
        (&bob, &["ghcr.io/org/app"], &[Pull, Push], Source::Default),
        // Grants are all that a robot has.
        (&robot, &["team-a/app"], &[Pull, Push], Source::Grant),
        (&robot, &["team-a/public"], &[], Source::Grant),
        (&robot, &["other/app"], &[], Source::Grant),
    ] {
        let decision = policy.decide(identity, || names(repository));
        let allowed = allowed.iter().copied().collect();
        assert_eq!(decision, Decision { allowed, source }, "{identity} in {repository:?}");
    }
}

#[test]
fn unconfigured_this_machine_may_do_everything_and_others_pull() {
    let policy = Policy::unconfigured();
    let of = |identity: &Identity| policy.decide(identity, || -> Vec<String> { panic!("no rule needs names") }).allowed;
    assert_eq!(of(&LOCAL), Permissions::ALL);
    assert_eq!(of(&STRANGER), Permissions::PULL);
    assert!(policy.may_list(&STRANGER) && !policy.is_admin(&LOCAL));
}

#[test]
fn administrators_are_those_who_are_named() {
    let policy = policy();
    for (identity, is_admin) in [
        (user("alice", &["ops"]), true),
        (user("root", &[]), true),
        (user("rooty", &[]), false),
        (user("alice", &["team-a"]), false),
        (STRANGER, false),
        (LOCAL, false),
    ] {
        assert_eq!(policy.is_admin(&identity), is_admin, "{identity}");
    }
}

#[test]
fn immutable_tags_are_so_for_everybody() {
    let policy = policy();
    let is_immutable = |name: &str, tag: &str| policy.is_immutable(&names(&[name]), &tag.parse().unwrap());
    assert!(is_immutable("team-a/app", "v1.2"));
    assert!(!is_immutable("team-a/app", "latest"));
    assert!(!is_immutable("team-b/app", "v1.2"));
    assert!(policy.has_immutable_tags() && !Policy::unconfigured().has_immutable_tags());
}

fn any_permissions() -> impl Strategy<Value = Permissions> {
    (0..8_u8).prop_map(Permissions)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let who = prop_oneof![
        Just(Who::Anonymous),
        Just(Who::Authenticated),
        Just(Who::Loopback),
        Just(user_glob("alice")),
        Just(Who::Group("staff".to_owned())),
    ];
    let repositories = prop::sample::subsequence(vec!["a/**", "*/app", "**", "a/app", "b/*"], 1..3);
    (repositories, prop::collection::vec(who, 0..3), any_permissions()).prop_map(|(repositories, who, allow)| Rule {
        repositories: globs(&repositories),
        who,
        allow,
        immutable: GlobSet::empty(),
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (prop::collection::vec(any_rule(), 0..5), any_permissions(), any_permissions()).prop_map(
        |(rules, anonymous, more)| Policy {
            rules,
            members_only: Vec::new(),
            anonymous,
            local: anonymous,
            authenticated: anonymous.or(more),
            admins: Vec::new(),
        },
    )
}

proptest! {
    /// Whatever order the spellings come in, the answer is the same; more spellings never come around a closed door.
    #[test]
    fn the_order_of_names_does_not_matter(policy in any_policy(), is_local: bool) {
        let identity = Identity::Anonymous { is_local };
        let one = policy.decide(&identity, || names(&["a/app", "b/app"]));
        let other = policy.decide(&identity, || names(&["b/app", "a/app"]));
        prop_assert_eq!(one, other);
    }

    /// A rule that fits nobody takes away at most: it never gives.
    #[test]
    fn a_rule_about_somebody_else_never_gives(policy in any_policy(), allow in any_permissions(), at in 0..6_usize) {
        let before = policy.decide(&STRANGER, || names(&["a/app"])).allowed;
        let mut with = policy.clone();
        let rule = Rule { allow, ..rule(&["a/**"], vec![user_glob("mallory")], &[]) };
        with.rules.insert(at.min(with.rules.len()), rule);
        let after = with.decide(&STRANGER, || names(&["a/app"])).allowed;
        prop_assert_eq!(after.and(before), after);
    }

    /// The last rule cannot change what an earlier one about the same person and repository said.
    #[test]
    fn a_later_rule_changes_nothing_that_was_decided(policy in any_policy(), last in any_rule()) {
        let alice = user("alice", &["staff"]);
        let before = policy.decide(&alice, || names(&["a/app"]));
        let mut with = policy.clone();
        with.rules.push(last);
        if let Source::Rule(_) = before.source {
            prop_assert_eq!(with.decide(&alice, || names(&["a/app"])), before);
        }
    }

    #[test]
    fn sets_of_permissions_are_sets(one in any_permissions(), other in any_permissions()) {
        prop_assert_eq!(one.iter().collect::<Permissions>(), one);
        for permission in Permission::ALL {
            prop_assert_eq!(one.and(other).has(permission), one.has(permission) && other.has(permission));
            prop_assert_eq!(one.or(other).has(permission), one.has(permission) || other.has(permission));
        }
    }
}
