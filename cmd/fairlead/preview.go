package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/controller"
)

// errLoss makes plan exit with 2; what there is to say has been printed.
var errLoss = errors.New("a Service would lose something")

func planCommand(access clientcmd.ClientConfig) *cobra.Command {
	var files, deletes []string
	var all bool
	cmd := &cobra.Command{
		Use:   "plan [-f FILE]... [--delete KIND/NAME]...",
		Short: "Say what would become of Services and pools if a file were applied. Changes nothing.",
		Long: `Say, before anything is applied, which Services would keep, lose or newly get an
address, and what would become of the pools: the decision of the controller, made
by its own code on the cluster as it is, and on the cluster with the file's
objects in it. Changes nothing.

A file holds Fairlead's kinds, Services, Namespaces and Nodes, in YAML or JSON,
as kubectl apply takes it. It is read strictly: a field or kind that is not known
is an error.

Exits 0 if no Service would lose anything, 2 if one would (an address, or the
advertisement of its pool), and 1 if the question cannot be answered.`,
		Example: `  fairlead plan -f new-pool.yaml
  fairlead plan --delete ipaddresspool/lan
  fairlead plan -f new-pool.yaml --from dump.yaml -o json`,
		Args: cobra.NoArgs,
	}
	from := objectFlags(cmd, access)
	policy := policyFlags(cmd)
	check, print := outputFlag(cmd)
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "File with objects to be applied; - is standard input. May be repeated.")
	cmd.Flags().StringArrayVar(&deletes, "delete", nil, "Object to be deleted: KIND/NAME, service/NAMESPACE/NAME. May be repeated.")
	cmd.Flags().BoolVar(&all, "all", false, "Show what stays as it is too.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := check(); err != nil {
			return err
		}
		if len(files)+len(deletes) == 0 {
			return errors.New("what to plan? Try: fairlead plan -f FILE, or --delete KIND/NAME")
		}
		if slices.Contains(files, "-") && slices.Contains(from.dumps, "-") {
			return errors.New("-f - and --from -: standard input can be read once only")
		}
		wishes, err := readWishes(files, deletes, from, cmd.InOrStdin())
		if err != nil {
			return err
		}
		w, err := from.snapshot(cmd, policy)
		if err != nil {
			return err
		}
		p, err := preview(w.Controller, wishes, all)
		if err != nil {
			return err
		}
		if err := print(p); err != nil {
			return err
		}
		if p.Summary.loss() {
			return errLoss
		}
		return nil
	}
	return cmd
}

// wishes are what is to be planned.
type wishes struct {
	file    *objects.Collection
	deletes []deletion
}

// readWishes reads what is to be planned, before any cluster is asked.
func readWishes(files, deletes []string, from *objectSource, stdin io.Reader) (w wishes, err error) {
	for _, text := range deletes {
		d, err := parseDeletion(text)
		if err != nil {
			return w, err
		}
		w.deletes = append(w.deletes, d)
	}
	namespace, err := from.namespace()
	if err != nil {
		return w, err
	}
	for i := range w.deletes {
		if d := &w.deletes[i]; d.kind == "Service" {
			d.namespace = cmp.Or(d.namespace, namespace)
		}
	}
	w.file, err = objects.FromManifests(files, stdin, namespace)
	return w, err
}

// forecast is the answer of plan.
type forecast struct {
	Summary  summary          `json:"summary"`
	Services []servicePreview `json:"services"`
	Pools    []poolPreview    `json:"pools"`
	Problems []problem        `json:"problems"`
	Notes    []string         `json:"notes"`
	nothing  bool             // changes
}

// preview compares where the controller leads the cluster as it is with where
// it leads the one that is wished for.
func preview(cluster controller.Snapshot, w wishes, all bool) (f forecast, err error) {
	wished, notes := overlay(cluster, w.file)
	for _, d := range w.deletes {
		if wished, err = d.from(wished); err != nil {
			return f, err
		}
	}
	before, after := settle(cluster), settle(wished)
	f = forecast{
		Services: compareServices(before, after), Pools: comparePools(before, after), Problems: compareProblems(before, after), Notes: append([]string{}, notes...),
	}
	if before.writes > 0 {
		f.Notes = append(f.Notes, "the controller has yet to write "+output.Count(before.writes, "Service", "Services")+" of the cluster as it is; the plan compares with what it will write")
	}
	if !before.steady || !after.steady {
		f.Notes = append(f.Notes, fmt.Sprintf("the controller still had something to write after %d rounds; the plan shows the last one", maxRounds))
	}
	f.Summary = summarize(f.Services)
	changed := f
	changed.Services = without(f.Services, func(p servicePreview) bool { return p.Changes[0] == keeps || p.Changes[0] == lacks })
	changed.Pools = without(f.Pools, func(p poolPreview) bool { return !p.Changed })
	changed.Problems = without(f.Problems, func(p problem) bool { return p.Change == "stays" })
	f.nothing = len(changed.Services)+len(changed.Pools)+len(changed.Problems) == 0
	changed.nothing = f.nothing
	if all {
		return f, nil
	}
	return changed, nil
}

func without[T any](all []T, what func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(all), what)
}
