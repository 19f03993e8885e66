// Command lab starts a whole cluster on this machine and shows Fairlead at work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

const usage = `usage: lab COMMAND

  demo [--aws] [--keep] [--nodes N]
                              start a cluster, show Fairlead at work, clean up
  bench [--nodes N]           measure what announcing by BGP costs, against BIRD and FRR
  bench --scale               measure the controller at 10,000 Services, against a bare API loop
  exec HOST -- COMMAND …      run a command on a machine of the kept cluster:
                              client, node-1, pod-1, aws, … or control-plane
  stop                        stop the kept cluster
  build                       build and fetch what clusters and tests need, into .build
  with COMMAND …              run a command with BIRD, FRR, OpenBGPD, ExaBGP, nft and moto_server on its PATH

flags of demo:
  --aws       all nodes but one are instances of an emulated AWS
  --keep      keep the cluster running until Ctrl-C, and say how to use it
  --nodes N   how many nodes (3)

FAIRLEAD_LAB_BIN=DIR runs the binaries of this folder instead of building them.
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	switch args[0] {
	case "demo", "bench":
		return runCluster(args[0], args[1:])
	case "exec":
		return lab.Exec(args[1:])
	case "build":
		_, err := lab.Prepare(lab.Progress{Out: os.Stdout}, allTools...)
		return err
	case "with":
		return with(args[1:])
	case "stop":
		return lab.Stop()
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("unknown command %q\n\n%s", args[0], usage)
}

// allTools are the tools of all tests.
var allTools = []lab.Tool{lab.NFT, lab.BIRD, lab.FRR, lab.OpenBGPD, lab.ExaBGP, lab.Moto}

// with runs a command that needs the tools, which are fetched first.
func with(command []string) error {
	root, err := lab.Root()
	if err != nil {
		return err
	}
	binaries := lab.Binaries(filepath.Join(root, ".build"))
	if err := binaries.Fetch(lab.Progress{Out: os.Stdout}, allTools...); err != nil {
		return err
	}
	return binaries.With(command)
}

// runCluster builds what a cluster needs, and does in a sandbox what the command says.
func runCluster(command string, args []string) error {
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	keep, aws, scale := flags.Bool("keep", false, ""), flags.Bool("aws", false, ""), flags.Bool("scale", false, "")
	nodes := flags.Int("nodes", 3, "")
	if err := flags.Parse(args); err != nil {
		os.Exit(2)
	}
	if *nodes < 1 || *nodes > 80 || flags.NArg() > 0 {
		return fmt.Errorf("--nodes=%d: must be from 1 to 80, and nothing may follow the flags", *nodes)
	}
	progress := lab.Progress{Out: os.Stdout}
	if lab.Inside() {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		options := lab.Options{Nodes: *nodes, Progress: progress}
		var err error
		switch {
		case command == "bench" && *scale:
			err = runScale(ctx, options)
		case command == "bench":
			err = runBench(ctx, options)
		case *aws:
			options.AWS = max(1, *nodes-1)
			err = demoAWS(ctx, options, *keep)
		default:
			err = demo(ctx, options, *keep)
		}
		if ctx.Err() != nil && err != nil {
			return errors.New("interrupted; nothing is left behind")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, lab.Logs(6))
		}
		return err
	}
	fmt.Printf("Fairlead %s: a cluster in network namespaces on this machine\n", command)
	tools := []lab.Tool{lab.BIRD}
	switch {
	case *scale:
		tools = nil
	case command == "bench":
		tools = append(tools, lab.FRR)
	case *aws:
		tools = []lab.Tool{lab.Moto}
	}
	binaries, err := lab.Prepare(progress, tools...)
	if err != nil {
		return err
	}
	enter := lab.Enter
	if *keep {
		enter = lab.EnterKept
	}
	code, err := enter(binaries)
	if err != nil {
		return err
	}
	os.Exit(code)
	return nil
}
