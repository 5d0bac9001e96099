//! Boxes that show a code, and the people who type it.

use daemon::exit::Failure;
use swarm_proto::pb::common::DeviceKind as PbKind;
use swarm_proto::pb::tracker as pb;
use tonic::{Code, Status};

use crate::world::{Device, World, membership};

async fn request(world: &World, device: &Device) -> Result<pb::RequestPairingResponse, Status> {
    let name = format!("box {}", device.n);
    let request = pb::RequestPairingRequest { hpke_public: vec![9; 32], device_name: name };
    Ok(world.pairing().request_pairing(device.calls(request)).await?.into_inner())
}

async fn poll(world: &World, device: &Device) -> Result<Option<pb::EnrolResponse>, Status> {
    Ok(world.pairing().poll_pairing(device.calls(pb::PollPairingRequest {})).await?.into_inner().enrolled)
}

fn pair(code: &str, account: &[u8]) -> pb::PairDeviceRequest {
    let (code, account) = (code.to_owned(), account.to_vec());
    pb::PairDeviceRequest { code, account, kind: PbKind::Box.into(), site: String::new() }
}

/// The value of an attribute that follows this text.
fn value_after(page: &str, text: &str) -> String {
    let rest = &page[page.find(text).unwrap_or_else(|| panic!("{text} in {page}")) + text.len()..];
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn box_shows_a_code_and_is_a_member_when_the_operator_has_typed_it() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    let device = Device::new(1, world.id);
    assert_eq!(Failure::from(poll(&world, &device).await.unwrap_err()).code, "E-PAIR-02");
    let shown = request(&world, &device).await.unwrap();
    assert_eq!(shown.code.len(), 9);
    assert_eq!(poll(&world, &device).await.unwrap(), None);
    let typed = shown.code.to_lowercase().replace('-', " ");
    let paired = world.devices().pair_device(pair(&typed, &account)).await.unwrap().into_inner();
    assert_eq!((paired.name.as_str(), paired.device), ("box 1", device.id().to_vec()));
    let enrolled = poll(&world, &device).await.unwrap().expect("the code was typed");
    assert_eq!(poll(&world, &device).await.unwrap().as_ref(), Some(&enrolled), "a lost answer is not a lost code");
    assert_eq!(membership(enrolled, world.id).account.to_vec(), account);
    let again = Failure::from(world.devices().pair_device(pair(&typed, &account)).await.unwrap_err());
    assert_eq!(again.code, "E-PAIR-01", "a code works once");
    device.attend(&world, Vec::new()).await;
}

#[tokio::test]
async fn code_that_a_newer_one_has_replaced_lets_nobody_in() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    let device = Device::new(1, world.id);
    let old = request(&world, &device).await.unwrap().code;
    request(&world, &device).await.unwrap();
    let refused = world.devices().pair_device(pair(&old, &account)).await.unwrap_err();
    assert_eq!(Failure::from(refused).code, "E-PAIR-01");
}

#[tokio::test]
async fn address_that_asks_for_many_codes_has_to_wait() {
    let world = World::start().await;
    for n in 0..20 {
        request(&world, &Device::new(n + 1, world.id)).await.unwrap();
    }
    assert_eq!(request(&world, &Device::new(21, world.id)).await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn customer_opens_a_link_once_and_adds_the_box_that_shows_the_code() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    let device = Device::new(1, world.id);
    let code = request(&world, &device).await.unwrap().code;
    let made = pb::MakeSignInLinkRequest { account: account.clone() };
    let link = world.customers().make_sign_in_link(made).await.unwrap().into_inner().path;
    let browse = |what: &str, headers: &[(&str, &str)], form: &str| {
        tokio::task::block_in_place(|| world.browse(what, headers, form))
    };

    let signed_out = browse("GET /pair", &[], "");
    assert!(signed_out.starts_with("HTTP/1.1 403") && signed_out.contains("not signed in"), "{signed_out}");
    let foreign = browse(&format!("POST {link}"), &[("origin", "https://evil.example")], "");
    assert!(foreign.starts_with("HTTP/1.1 403"), "{foreign}");
    for _ in 0..2 {
        let looked_at = browse(&format!("GET {link}"), &[], "");
        assert!(looked_at.starts_with("HTTP/1.1 200"), "looking does not use a link up: {looked_at}");
    }
    let opened = browse(&format!("POST {link}"), &[], "");
    assert!(opened.starts_with("HTTP/1.1 303"), "{opened}");
    let cookie = opened.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let again = browse(&format!("POST {link}"), &[], "");
    assert!(again.starts_with("HTTP/1.1 403") && again.contains("has been used"), "{again}");

    let signed_in = [("cookie", cookie)];
    let form = value_after(&browse("GET /pair", &signed_in, ""), "name=\"form\" value=\"");
    let forged = browse("POST /pair", &signed_in, &format!("code={code}&form=AAAA&confirmed=true"));
    assert!(forged.starts_with("HTTP/1.1 403") && forged.contains("E-FORM-01"), "{forged}");
    let foreign = [("cookie", cookie), ("sec-fetch-site", "cross-site")];
    assert!(browse("POST /pair", &foreign, &format!("code={code}&form={form}")).starts_with("HTTP/1.1 403"));
    let named = browse("POST /pair", &signed_in, &format!("code={code}&form={form}"));
    assert!(named.contains("box 1") && poll(&world, &device).await.unwrap().is_none(), "{named}");
    let done = browse("POST /pair", &signed_in, &format!("code={code}&form={form}&confirmed=true"));
    assert!(done.contains("is now one of"), "{done}");
    let enrolled = poll(&world, &device).await.unwrap().expect("the code was typed");
    assert_eq!(membership(enrolled, world.id).account.to_vec(), account);
}

#[tokio::test(flavor = "multi_thread")]
async fn browser_that_guesses_codes_has_to_wait_and_a_closed_account_is_signed_out() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    let made = pb::MakeSignInLinkRequest { account: account.clone() };
    let link = world.customers().make_sign_in_link(made).await.unwrap().into_inner().path;
    let browse = |what: &str, headers: &[(&str, &str)], form: &str| {
        tokio::task::block_in_place(|| world.browse(what, headers, form))
    };
    let opened = browse(&format!("POST {link}"), &[], "");
    let cookie = opened.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().to_owned();
    let signed_in = [("cookie", cookie.split(';').next().unwrap())];
    let form = value_after(&browse("GET /pair", &signed_in, ""), "name=\"form\" value=\"");
    let mut generator = <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::from_seed([1; 32]);
    let mut guess = || {
        let code = swarm_proto::code::EnrolCode::generate(&mut generator).reveal().to_string();
        browse("POST /pair", &signed_in, &format!("code={code}&form={form}"))
    };
    for _ in 0..20 {
        let wrong = guess();
        assert!(wrong.contains("no box waits with this code"), "{wrong}");
    }
    assert!(guess().starts_with("HTTP/1.1 429"));

    let status = pb::CustomerStatus::Closed.into();
    world.operator().set_customer_status(pb::SetCustomerStatusRequest { account, status }).await.unwrap();
    assert!(browse("GET /pair", &signed_in, "").starts_with("HTTP/1.1 403"));
}
