// Command lab starts a whole cluster on this machine, for demonstrations, benchmarks
// and tests of Fairlead.
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
                              start a cluster, demonstrate Fairlead, and remove the cluster
  bench [--nodes N]           benchmark announcements over BGP, with BIRD and FRR as routers
  bench --scale               benchmark the controller against plain API calls
  bench --failover            benchmark the failover of Layer 2 addresses
  bench --data-path MODE      count requests that are lost when pods, nodes and speakers change,
                              with kube-proxy in a mode: nftables or iptables
  bench --full [--scale|--failover]
                              benchmark with 5,000 and 10,000 Services, and more repetitions
  exec HOST -- COMMAND …      run a command on a machine of the kept cluster:
                              client, node-1, pod-1, tor, remote, aws, … or control-plane
  stop                        stop the kept cluster
  build                       build and fetch all programs for clusters and tests into .build
  with COMMAND …              run a command with BIRD, FRR, OpenBGPD, ExaBGP, arping, ndisc6, nft, moto_server and aws on its PATH

flags of demo:
  --aws       all nodes except one are instances of an emulated AWS
  --keep      keep the cluster running until Ctrl-C, and print how to use it
  --nodes N   number of nodes (default 3)

FAIRLEAD_LAB_BIN=DIR runs the binaries in the directory instead of building them.
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
		return runWithTools(args[1:])
	case "stop":
		return lab.Stop()
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("unknown command %q\n\n%s", args[0], usage)
}

// allTools are the tools that any test requires.
var allTools = []lab.Tool{
	lab.NFT, lab.IPTables, lab.BIRD, lab.FRR, lab.OpenBGPD, lab.ExaBGP, lab.Arping, lab.NDisc6, lab.Prometheus, lab.Moto, lab.AWSCLI,
}

// runWithTools fetches the tools and runs a command with them.
func runWithTools(command []string) error {
	root, err := lab.Root()
	if err != nil {
		return err
	}
	binaries := lab.Binaries(filepath.Join(root, ".build"))
	if err := binaries.Fetch(lab.Progress{Out: os.Stdout}, allTools...); err != nil {
		return err
	}
	return binaries.RunWith(command)
}

// labJob is a command that runs in a cluster.
type labJob struct {
	tools []lab.Tool
	nodes int
	keep  bool
	do    func(ctx context.Context, o lab.Options) error
}

func parseJob(command string, args []string) (j labJob, err error) {
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flags.BoolVar(&j.keep, "keep", false, "")
	flags.IntVar(&j.nodes, "nodes", 3, "")
	aws, scale, full := flags.Bool("aws", false, ""), flags.Bool("scale", false, ""), flags.Bool("full", false, "")
	failover, dataPath := flags.Bool("failover", false, ""), flags.String("data-path", "", "")
	if err := flags.Parse(args); err != nil {
		os.Exit(2)
	}
	if flags.NArg() > 0 {
		return j, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if j.nodes < 1 || j.nodes > 80 {
		return j, fmt.Errorf("--nodes=%d: must be from 1 to 80", j.nodes)
	}
	benchAmounts, scaleAmounts, failoverAmounts := quickBench, quickScale, quickFailover
	if *full {
		benchAmounts, scaleAmounts, failoverAmounts = fullBench, fullScale, fullFailover
	}
	switch {
	case command == "bench" && *scale:
		j.do = func(ctx context.Context, o lab.Options) error { return runScale(ctx, o, scaleAmounts) }
	case command == "bench" && *failover:
		j.nodes = 3
		j.do = func(ctx context.Context, o lab.Options) error { return runFailover(ctx, o, failoverAmounts) }
	case command == "bench" && *dataPath != "":
		j.nodes = 3
		j.tools = []lab.Tool{lab.BIRD, lab.FRR, lab.IPTables}
		j.do = func(ctx context.Context, o lab.Options) error { return runDataPath(ctx, o, *dataPath) }
	case command == "bench":
		j.tools = []lab.Tool{lab.BIRD, lab.FRR}
		j.do = func(ctx context.Context, o lab.Options) error { return runBench(ctx, o, benchAmounts) }
	case *aws:
		j.tools = []lab.Tool{lab.Moto}
		j.do = func(ctx context.Context, o lab.Options) error { return runAWSDemo(ctx, o, j.keep) }
	default:
		j.tools = []lab.Tool{lab.BIRD}
		j.do = func(ctx context.Context, o lab.Options) error { return runDemo(ctx, o, j.keep) }
	}
	return j, nil
}

// runCluster builds the binaries of a cluster, and runs the command in a sandbox.
func runCluster(command string, args []string) error {
	j, err := parseJob(command, args)
	if err != nil {
		return err
	}
	progress := lab.Progress{Out: os.Stdout}
	if lab.Inside() {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		err := j.do(ctx, lab.Options{Nodes: j.nodes, Progress: progress})
		if ctx.Err() != nil && err != nil {
			return errors.New("interrupted; the cluster was removed")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, lab.Logs(6))
		}
		return err
	}
	title := command
	if j.keep {
		title = "lab"
	}
	fmt.Printf("Fairlead %s: a cluster in network namespaces on this machine\n", title)
	binaries, err := lab.Prepare(progress, j.tools...)
	if err != nil {
		return err
	}
	enter := lab.Enter
	if j.keep {
		enter = lab.EnterKept
	}
	code, err := enter(binaries)
	if err != nil {
		return err
	}
	os.Exit(code)
	return nil
}
