// This file wires the commands: each reads its arguments and objects here, and
// calls the package of its name.

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/cmd/fairlead/doctor"
	"github.com/fairlead-io/fairlead/cmd/fairlead/dump"
	"github.com/fairlead-io/fairlead/cmd/fairlead/explain"
	"github.com/fairlead-io/fairlead/cmd/fairlead/plan"
	"github.com/fairlead-io/fairlead/cmd/fairlead/uninstall"
)

// explainCommand exits with 0 also for a Service without an address: only a Service
// that does not exist is an error.
func explainCommand(access clientcmd.ClientConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain svc [NAMESPACE/]NAME",
		Short: "Show which address is assigned to a Service, which node announces it, and why.",
		Long: `Show which address is assigned to a Service, from which pool, which node
announces it on which interface or to which BGP peers, and why. The decisions of
the controller and of the speakers are computed by their own code from the
current objects. For a Service on AWS, the state of the load balancer that the
controller last wrote is shown.`,
		Example: `  fairlead explain svc default/influxdb
  fairlead explain svc default/influxdb --from dump.yaml -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || !slices.Contains([]string{"svc", "service", "services"}, args[0]) {
				return errors.New("the arguments must be: explain svc [NAMESPACE/]NAME")
			}
			return nil
		},
	}
	from := objectFlags(cmd, access)
	policy := policyFlags(cmd)
	print := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		// The form NAMESPACE/NAME takes precedence over the flag -n and the
		// kubeconfig.
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

// doctorCommand exits with 1 if there is a finding of any severity, so that a
// script can wait until there is none.
func doctorCommand(access clientcmd.ClientConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "List all detected problems, the most severe first. Exits with 1 if there is any.",
		Long: `List all detected problems, the most severe first: Services without an address
or without an announcement; pools that are exhausted, overlapping or not
advertised; nodes without a speaker; controllers without metrics; BGP sessions
that are not established, with the step that fails; invalid configuration objects.
Exits with 1 if there is any problem. Changes nothing.

BROKEN means no service, DEGRADED means reduced service or redundancy, NOTICE
means that no action is required now.`,
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
		// The findings are printed before the exit status is set: a failed write is
		// the error that is reported.
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

// planCommand exits with 2 for a loss, so that a script can distinguish it from an
// error, which is 1.
func planCommand(access clientcmd.ClientConfig) *cobra.Command {
	var files, deletions []string
	var all bool
	cmd := &cobra.Command{
		Use:   "plan [-f FILE]... [--delete KIND/NAME]...",
		Short: "Preview how Services and pools would change if manifests were applied. Changes nothing.",
		Long: `Preview which addresses of Services would be kept, released, reassigned or newly
assigned if manifests were applied, and how pools would change. The controller's
own code computes its decisions for the current cluster and for the cluster with
the manifests applied. Changes nothing.

A manifest contains Fairlead's kinds, Services, Namespaces and Nodes, in YAML or
JSON, as for kubectl apply. It is decoded strictly: unknown kinds and fields are
errors.

Exits with 0 if no Service would lose an address or its announcement, with 2 if
one would, and with 1 on an error.`,
		Example: `  fairlead plan -f new-pool.yaml
  fairlead plan --delete ipaddresspool/lan
  fairlead plan -f new-pool.yaml --from dump.yaml -o json`,
		Args: cobra.NoArgs,
	}
	from := objectFlags(cmd, access)
	policy := policyFlags(cmd)
	print := outputFlag(cmd)
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "Manifest to preview; - is standard input. May be repeated.")
	cmd.Flags().StringArrayVar(&deletions, "delete", nil, "Object to delete: KIND/NAME or service/NAMESPACE/NAME. May be repeated.")
	cmd.Flags().BoolVar(&all, "all", false, "Include Services, pools and problems that do not change.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(files)+len(deletions) == 0 {
			return errors.New("at least one of -f FILE and --delete KIND/NAME must be set")
		}
		// Whichever is read first would leave the other one empty.
		if slices.Contains(files, "-") && slices.Contains(from.dumps, "-") {
			return errors.New("-f - and --from -: standard input can be read only once")
		}
		// Manifests are read before the cluster: an error in a file is reported
		// without a request to the API server, except for the namespace of the
		// kubeconfig.
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
			result = result.OnlyChanges()
		}
		if err := print(result); err != nil {
			return err
		}
		// It depends on the summary, from which --all changes nothing.
		if result.InterruptsServices() {
			return exitStatus(2)
		}
		return nil
	}
	return cmd
}

// dumpCommand writes the dump only after all objects were read: an error leaves no
// partial dump.
func dumpCommand(access clientcmd.ClientConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "Write all objects that the other commands read, for their --from.",
		Long: `Write all objects that the other commands read, as one YAML List: Fairlead's own
kinds, Speakers, Nodes, Namespaces, ServiceCIDRs, Services, EndpointSlices, and
the Events about the controller's pods. The dump contains no Secrets. It contains
all annotations of these objects.`,
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

// uninstallCommand prints the plan before it changes anything, also with --yes. The
// progress is not part of the result.
func uninstallCommand(access clientcmd.ClientConfig) *cobra.Command {
	var options uninstall.Options
	var yes bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "uninstall [--yes]",
		Short: "Remove Fairlead from the cluster. Without --yes, only show what would be changed.",
		Long: `Remove Fairlead from the cluster: stop the controller and the speakers, remove
records, conditions and finalizers from the Services, and delete the CRDs with all
pools, advertisements and peers, and all other objects of the manifests. Without
--yes, nothing is changed.

Addresses in the status of Services are kept, so that another installation assigns
them again, or released.

Load balancers in AWS are listed, and nothing is changed, unless
--delete-load-balancers is set. Then the running controller is requested to delete
them first, by the annotation fairlead.io/provider: none on their Services.

An uninstallation that was interrupted is continued by running it again.`,
		Example: `  fairlead uninstall
  fairlead uninstall --addresses release --yes`,
		Args: cobra.NoArgs,
	}
	print := outputFlag(cmd)
	cmd.Flags().StringVar(&options.Addresses, "addresses", uninstall.Keep,
		"Addresses in the status of Services: "+strings.Join(uninstall.AddressPolicies, " or ")+".")
	cmd.Flags().BoolVar(&options.DeleteLoadBalancers, "delete-load-balancers", false, "Delete the load balancers in AWS.")
	cmd.Flags().BoolVar(&yes, "yes", false, "Make the changes.")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "Maximum duration of each wait.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !slices.Contains(uninstall.AddressPolicies, options.Addresses) {
			return fmt.Errorf("--addresses=%q: must be one of %q", options.Addresses, uninstall.AddressPolicies)
		}
		restConfig, err := access.ClientConfig()
		if err != nil {
			return kubeconfigError(err)
		}
		cluster, err := uninstall.New(restConfig)
		if err != nil {
			return err
		}
		// As for the other commands, an API server that does not respond ends it.
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
		defer cancel()
		p, err := cluster.Plan(ctx, options)
		if err != nil {
			return err
		}
		if err := print(p); err != nil {
			return err
		}
		if p.IsEmpty() {
			return nil
		}
		note := func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), text) }
		if !yes {
			note("Nothing was changed. Set --yes to make these changes.")
			return nil
		}
		return cluster.Run(cmd.Context(), p, options, timeout, note)
	}
	return cmd
}
