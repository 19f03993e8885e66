package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/cmd/fairlead/doctor"
	"github.com/fairlead-io/fairlead/cmd/fairlead/dump"
	"github.com/fairlead-io/fairlead/cmd/fairlead/explain"
	"github.com/fairlead-io/fairlead/cmd/fairlead/plan"
)

func explainCommand(access clientcmd.ClientConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain svc [NAMESPACE/]NAME",
		Short: "Show which address a Service has, which node announces it, and why.",
		Long: `Show which address a Service has, from which pool, which node announces it on
which interface, and why: the decisions of the controller and of the speakers,
made again by their own code from what the API server returns now. For a Service
on AWS it shows the state of the load balancer that the controller last wrote.`,
		Example: `  fairlead explain svc default/influxdb
  fairlead explain svc default/influxdb --from dump.yaml -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || !slices.Contains([]string{"svc", "service", "services"}, args[0]) {
				return errors.New("what to explain? Try: fairlead explain svc NAMESPACE/NAME")
			}
			return nil
		},
	}
	from := objectFlags(cmd, access)
	policy := policyFlags(cmd)
	print := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		namespace, name, named := strings.Cut(args[1], "/")
		if !named {
			name = namespace
			var err error
			if namespace, err = from.defaultNamespace(); err != nil {
				return err
			}
		}
		snapshot, err := from.readSnapshot(cmd, policy)
		if err != nil {
			return err
		}
		e, err := explain.Service(snapshot, types.NamespacedName{Namespace: namespace, Name: name})
		if err != nil {
			return err
		}
		return print(e)
	}
	return cmd
}

func doctorCommand(access clientcmd.ClientConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "List every problem that Fairlead can see, worst first. Exits 1 if there is any.",
		Long: `List every problem that Fairlead can see, worst first: Services without an
address or that no node announces, pools that are used up, overlap or are not
announced, nodes without a speaker, BGP sessions that are not established and at
which step they fail, objects that cannot be used as they are. Exits 1 if there
is any, and changes nothing.

BROKEN is without service now, DEGRADED works with less than it should, NOTICE
is worth knowing.`,
		Args: cobra.NoArgs,
	}
	from := objectFlags(cmd, access)
	policy := policyFlags(cmd)
	print := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		snapshot, err := from.readSnapshot(cmd, policy)
		if err != nil {
			return err
		}
		d := doctor.Examine(snapshot)
		if err := print(d); err != nil {
			return err
		}
		if len(d.Findings) > 0 {
			return exitStatus(1)
		}
		return nil
	}
	return cmd
}

func planCommand(access clientcmd.ClientConfig) *cobra.Command {
	var files, deletions []string
	var all bool
	cmd := &cobra.Command{
		Use:   "plan [-f FILE]... [--delete KIND/NAME]...",
		Short: "Preview what would happen to Services and pools if a file were applied. Changes nothing.",
		Long: `Preview, before anything is applied, which Services would keep, lose or newly get
an address, and what would happen to the pools: the decision of the controller,
made by its own code on the cluster as it is, and on the cluster with the file's
objects in it. Changes nothing.

A file holds Fairlead's kinds, Services, Namespaces and Nodes, in YAML or JSON,
as kubectl apply takes it. It is read strictly: a field or kind that is not known
is an error.

Exits 0 if no Service would lose anything, 2 if one would (an address, or the
advertisement of its pool), and 1 if there is no result.`,
		Example: `  fairlead plan -f new-pool.yaml
  fairlead plan --delete ipaddresspool/lan
  fairlead plan -f new-pool.yaml --from dump.yaml -o json`,
		Args: cobra.NoArgs,
	}
	from := objectFlags(cmd, access)
	policy := policyFlags(cmd)
	print := outputFlag(cmd)
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "File with objects to be applied; - is standard input. May be repeated.")
	cmd.Flags().StringArrayVar(&deletions, "delete", nil, "Object to be deleted: KIND/NAME, service/NAMESPACE/NAME. May be repeated.")
	cmd.Flags().BoolVar(&all, "all", false, "Show what stays as it is too.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(files)+len(deletions) == 0 {
			return errors.New("what to plan? Try: fairlead plan -f FILE, or --delete KIND/NAME")
		}
		if slices.Contains(files, "-") && slices.Contains(from.dumps, "-") {
			return errors.New("-f - and --from -: standard input can be read once only")
		}
		request, err := from.readRequest(cmd, files, deletions)
		if err != nil {
			return err
		}
		snapshot, err := from.readSnapshot(cmd, policy)
		if err != nil {
			return err
		}
		result, err := plan.Preview(snapshot.Controller, request)
		if err != nil {
			return err
		}
		if !all {
			result = result.Changed()
		}
		if err := print(result); err != nil {
			return err
		}
		if result.Loss() {
			return exitStatus(2)
		}
		return nil
	}
	return cmd
}

func dumpCommand(access clientcmd.ClientConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "Write everything that the other commands read, for their --from.",
		Long: `Write everything that the other commands read, as one YAML List: Fairlead's own
kinds, Speakers, Nodes, Namespaces, ServiceCIDRs, Services and EndpointSlices.
It holds no Secrets. What others have written into annotations is part of it.`,
		Example: `  fairlead dump > dump.yaml
  fairlead doctor --from dump.yaml`,
		Args: cobra.NoArgs,
	}
	from := objectFlags(cmd, access)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := from.readObjects(cmd)
		if err != nil {
			return err
		}
		return dump.Write(cmd.OutOrStdout(), all)
	}
	return cmd
}
