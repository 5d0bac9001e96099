//! What the checkout pages look like. Whatever comes from outside is escaped by `maud`.

use daemon::Failure;
use maud::{DOCTYPE, Markup, html};
use swarm_proto::catalog::Currency;
use swarm_proto::code::PassCode;
use swarm_proto::id::ItemId;
use swarm_proto::keyserver::ledger::PassOffer;
use swarm_proto::keyserver::orders::{Goods, OrderState};
use swarm_proto::keyserver::passes::{self, Holds, Pass};
use swarm_proto::time::Utc;

use super::{PREFIX, fresh_key};
use crate::books::Standing;
use crate::books::money::{Shelf, Wallet};
use crate::words;

/// After so long a payer who still waits is told that nothing is lost, instead of to wait.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

/// An order and all that is known about paying it.
pub(super) struct Order<'a> {
    pub(super) link: &'a str,
    pub(super) standing: &'a Standing,
    pub(super) title: Option<&'a str>,
    pub(super) wallet: &'a Wallet,
    pub(super) till: Option<String>,
    pub(super) kinds: &'a [String],
    pub(super) has_card: bool,
    pub(super) detour: Option<String>,
    pub(super) code: Option<PassCode>,
    pub(super) pass: Option<Pass>,
    pub(super) now: Utc,
}

/// A whole page; it asks for itself again after so many seconds if told to.
pub(super) fn page(name: &str, title: &str, again_after: Option<u32>, shape: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if let Some(secs) = again_after { meta http-equiv="refresh" content=(secs); }
                title { (title) " · " (name) }
                link rel="stylesheet" href="/style.css";
            }
            body { main class={ "sheet " (shape) } { p.place { (name) } (body) } }
        }
    }
}

/// A page of the same family, for the operator.
pub(crate) fn whole_page(name: &str, title: &str, shape: &str, body: &Markup) -> Markup {
    page(name, title, None, shape, body)
}

pub(super) fn trouble(failure: &Failure) -> Markup {
    html! {
        h1 { "That did not work" }
        (notice(failure))
    }
}

pub(crate) fn notice(failure: &Failure) -> Markup {
    html! {
        div.notice role="alert" {
            p { strong { (sentence(&failure.what)) } }
            @if let Some(hint) = &failure.hint { p { (sentence(hint)) } }
            p.fine { (failure.code) }
        }
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    first + chars.as_str() + stop
}

pub(super) fn title(order: &Order<'_>) -> &'static str {
    match order.standing.state {
        OrderState::Pending if order.standing.order.dues.open_attempt().is_some() => "Waiting for your bank",
        OrderState::Pending => "Pay",
        OrderState::Paid | OrderState::Granted => "Paid",
        OrderState::Refunded => "Refunded",
        OrderState::Disputed => "Disputed",
        OrderState::Expired => "Not paid in time",
    }
}

pub(super) fn offers(link: &str, item: ItemId, shelf: &Shelf) -> Markup {
    let action = format!("{PREFIX}/{link}/item/{item}");
    html! {
        h1 { (named(Some(&shelf.name))) }
        @if shelf.offers.is_empty() { p { "This title is not sold any more." } }
        @for offer in &shelf.offers {
            form.card method="post" action=(action) {
                input type="hidden" name="key" value=(fresh_key());
                input type="hidden" name="offer" value=(offer.id);
                div { p.price { (words::price(&offer.price)) } p { (words::window(&offer.policy)) } }
                button type="submit" { "Choose" }
            }
        }
        (back(link))
    }
}

pub(super) fn order(order: &Order<'_>, trouble: Option<&Failure>) -> Markup {
    let Standing { order: found, state } = order.standing;
    let what = match found.goods {
        Goods::Title(_) => named(order.title).to_owned(),
        Goods::Pass(goods) => holds(goods.holds, goods.valid),
    };
    html! {
        h1 { (what) }
        @if let Some(failure) = trouble { (notice(failure)) }
        @match state {
            OrderState::Pending => @match found.dues.open_attempt() {
                Some(attempt) => (waiting(order, order.now.since(attempt.begun) > LONG)),
                None => (ways(order)),
            },
            OrderState::Paid | OrderState::Granted => (paid(order)),
            OrderState::Refunded => {
                div.result { p.big { "Refunded" } p { "The money goes back the way it came." } }
            }
            OrderState::Disputed => {
                div.result { p.big { "Your bank is looking into it" } p { "Until it has decided, this stays closed." } }
            }
            OrderState::Expired => {
                div.result { p.big { "Not paid in time" } p { "Nothing was charged. Order again whenever you like." } }
            }
        }
        dl.facts {
            dt { "Price" } dd { (words::price(&found.price)) }
            @if let Goods::Title(_) = found.goods { dt { "You get" } dd { (words::window(&found.policy)) } }
            dt { "Order" } dd { code { (found.id) } }
        }
        (back(order.link))
    }
}

pub(super) fn came_back() -> Markup {
    html! {
        div.result {
            p.big { "Thank you" }
            p { "Your television tells you as soon as your bank has answered. You can close this page." }
        }
    }
}

fn waiting(order: &Order<'_>, long: bool) -> Markup {
    html! {
        div.result {
            @if long {
                p.big { "We'll finish it or refund it" }
                p { "Your bank has not answered yet. You can leave; nothing is lost, and you will not pay twice." }
            } @else {
                p.big { "Waiting for your bank" }
                p { "You can leave this page; we'll tell you here." }
            }
            @if let Some(page) = &order.detour { p { a.button href=(page) { "Go to your bank" } } }
        }
    }
}

fn paid(order: &Order<'_>) -> Markup {
    let gift = matches!(order.standing.order.goods, Goods::Pass(goods) if goods.gift);
    html! {
        div.result.good {
            p.big { "Paid" }
            @match (&order.code, gift) {
                (Some(code), true) => {
                    p { "This code is the gift. Whoever types it first has the pass:" }
                    p.code { (code.reveal().as_str()) }
                }
                (Some(_), false) => p { "The pass is yours: choose it whenever you pay." },
                (None, _) => p { "It plays on your television now." },
            }
            @if let Some(pass) = &order.pass { p.fine { (balance(pass)) ", until " (words::moment(pass.expires())) } }
        }
    }
}

/// Everything this order can be paid with.
fn ways(order: &Order<'_>) -> Markup {
    let found = &order.standing.order;
    let action = format!("{PREFIX}/{}/order/{}", order.link, found.id);
    let for_money = found.price.currency != Currency::CREDITS;
    let passes = order.wallet.passes.iter().filter(|(_, pass)| may_pay(pass, found, order.now));
    let bill =
        order.wallet.bill.as_ref().filter(|(bill, _)| for_money && bill.limit().currency == found.price.currency);
    let declined = found.dues.attempts().last().and_then(|attempt| attempt.declined);
    html! {
        @if let Some((_, why)) = declined {
            div.notice role="alert" {
                p { strong { "Declined. Nothing was charged." } }
                p { (words::decline(why)) " Try again, or pay another way." }
            }
        }
        @if found.item().is_some() {
            @for (id, pass) in passes {
                (way(&action, &format!("pass:{id}"), "Use your pass", &balance(pass)))
            }
        }
        @if let (true, Some(card)) = (order.has_card && for_money, &order.wallet.card) {
            (way(&action, "card", &format!("Pay {}", words::price(&found.price)), card.label.as_str()))
        }
        @if for_money {
            @for kind in order.kinds {
                (way(&action, &format!("elsewhere:{kind}"), &format!("Pay with {kind}"), "You are sent there and come back."))
            }
        }
        @if let Some((bill, owed)) = bill {
            @let left = bill.limit().minor.saturating_sub(*owed);
            @let words = format!("{} left this month", words::amount(left, bill.limit().currency));
            (way(&action, "bill", "Put it on your bill", &words))
        }
        @if let (true, Some(till)) = (for_money, &order.till) {
            div.card { div { p.label { "Pay elsewhere" } } a.button href=(till) { "Go" } }
        }
        @if found.item().is_some() {
            form.card method="post" action=(action) {
                input type="hidden" name="way" value="code";
                label { span.label { "Use a code" }
                    input name="code" autocomplete="off" autocapitalize="characters" spellcheck="false" maxlength="64" placeholder="XXXX-XXXX-XXXX-XXXX-X" required;
                }
                button type="submit" { "Redeem" }
            }
        }
    }
}

fn way(action: &str, way: &str, label: &str, detail: &str) -> Markup {
    html! {
        form.card method="post" action=(action) {
            input type="hidden" name="way" value=(way);
            div { p.label { (label) } p.fine { (detail) } }
            button type="submit" { "Pay" }
        }
    }
}

pub(super) fn home(
    link: &str,
    offers: &[PassOffer],
    wallet: &Wallet,
    orders: &[Standing],
    now: Utc,
    trouble: Option<&Failure>,
) -> Markup {
    html! {
        h1 { "Passes and orders" }
        @if let Some(failure) = trouble { (notice(failure)) }
        h2 { "My passes" }
        @if wallet.passes.is_empty() { p.fine { "None yet." } }
        @for (_, pass) in &wallet.passes {
            div.card { div {
                p.label { (balance(pass)) }
                p.fine { @if pass.is_expired(now) { "Ended " } @else { "Until " } (words::moment(pass.expires())) }
            } }
        }
        form.card method="post" action={ (PREFIX) "/" (link) "/claim" } {
            label { span.label { "Have a code?" }
                input name="code" autocomplete="off" autocapitalize="characters" spellcheck="false" maxlength="64" placeholder="XXXX-XXXX-XXXX-XXXX-X" required;
            }
            button type="submit" { "Add" }
        }
        @if !offers.is_empty() {
            h2 { "Buy a pass" }
            @for offer in offers {
                form.card method="post" action={ (PREFIX) "/" (link) "/pass" } {
                    input type="hidden" name="key" value=(fresh_key());
                    input type="hidden" name="offer" value=(offer.id);
                    div {
                        p.label { (holds(offer.holds, offer.valid)) }
                        p.price { (words::price(&offer.price)) }
                        label.check { input type="checkbox" name="gift" value="yes"; " It is a gift" }
                    }
                    button type="submit" { "Buy" }
                }
            }
        }
        h2 { "Orders" }
        @if orders.is_empty() { p.fine { "None yet." } }
        @for Standing { order, state } in orders {
            a.card href={ (PREFIX) "/" (link) "/order/" (order.id) } {
                div { p.label { (words::price(&order.price)) " · " (words::state(*state)) } p.fine { (words::moment(order.created)) } }
            }
        }
    }
}

fn back(link: &str) -> Markup {
    html! { p.back { a href={ (PREFIX) "/" (link) } { "Passes and orders" } } }
}

fn named(name: Option<&str>) -> &str {
    name.filter(|name| !name.is_empty()).unwrap_or("Your title")
}

fn holds(holds: Holds, valid: std::time::Duration) -> String {
    match holds {
        Holds::Credits(1) => format!("One title, within {}", words::span(valid)),
        Holds::Credits(credits) => format!("{credits} titles, within {}", words::span(valid)),
        Holds::Time => format!("Everything for {}", words::span(valid)),
    }
}

fn balance(pass: &Pass) -> String {
    match pass.holds() {
        _ if pass.is_void() => "Taken back".to_owned(),
        Holds::Credits(bought) => format!("{} of {bought} left", pass.credits_left()),
        Holds::Time => "Everything".to_owned(),
    }
}

fn may_pay(pass: &Pass, order: &swarm_proto::keyserver::orders::Order, now: Utc) -> bool {
    let enough = match pass.holds() {
        Holds::Credits(_) => passes::cost(&order.price).is_some_and(|cost| cost <= pass.credits_left()),
        Holds::Time => true,
    };
    enough && !pass.is_void() && !pass.is_expired(now)
}
