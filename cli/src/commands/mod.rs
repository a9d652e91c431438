//! One file a command; each takes its arguments and returns when it is done.

mod arch;
mod convert;
mod generate;
mod generation;
mod inspect;
#[cfg(feature = "distributed")]
mod link;
mod loading;
mod plan;
mod run;
mod serving;
mod store;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::Command;

/// Runs a command to its end.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(args).await?,
        Command::Generate(args) => generate::run(args).await?,
        Command::Serve(args) => serving::serve(args).await?,
        Command::Node(args) => serving::node(args).await?,
        Command::Router(args) => serving::router(args).await?,
        #[cfg(feature = "distributed")]
        Command::Link(args) => link::run(args).await?,
        Command::Worker(args) => return serving::worker(&args),
        Command::Plan(args) => plan::run(args).await?,
        Command::Download(args) => store::download(args).await?,
        Command::List(args) => store::list(args).await?,
        Command::Rm(args) => store::remove(args).await?,
        Command::Inspect(args) => inspect::run(args).await?,
        Command::Arch(args) => arch::run(&args),
        Command::Convert(args) => convert::run(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}
