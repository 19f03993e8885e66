// This file has the flags that several commands share, and reads the input that
// they describe.

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/cmd/fairlead/plan"
	"github.com/fairlead-io/fairlead/providers"
)

// objectSource is the source of the objects of a command: dumps, or a cluster.
type objectSource struct {
	access clientcmd.ClientConfig
	dumps  []string
}

// objectFlags adds the flag --from to the command.
func objectFlags(cmd *cobra.Command, access clientcmd.ClientConfig) *objectSource {
	s := &objectSource{access: access}
	cmd.Flags().StringArrayVar(&s.dumps, "from", nil, "Read objects from this dump (of fairlead dump, or kubectl get -o yaml or "+
		"json) instead of from a cluster; - is standard input. May be repeated.")
	return s
}

// readObjects returns all objects. It writes the notes on them to stderr.
func (s *objectSource) readObjects(cmd *cobra.Command) (all *objects.Collection, err error) {
	var notes []string
	if len(s.dumps) > 0 {
		all, notes, err = objects.FromDumps(s.dumps, cmd.InOrStdin())
	} else {
		restConfig, e := s.access.ClientConfig()
		if e != nil {
			return nil, kubeconfigError(e)
		}
		// The minute is for all lists together, so that an API server that does not
		// respond ends the command.
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
		defer cancel()
		all, notes, err = objects.FromCluster(ctx, restConfig)
	}
	// Notes do not belong to the result on standard output, which may be JSON.
	for _, n := range notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: %s\n", n)
	}
	return all, err
}

// readSnapshot returns all objects as the snapshot of a controller with the policy.
func (s *objectSource) readSnapshot(cmd *cobra.Command, policy func() (providers.Policy, error)) (objects.Snapshot, error) {
	all, err := s.readObjects(cmd)
	if err != nil {
		return objects.Snapshot{}, err
	}
	p, err := policy()
	if err != nil {
		return objects.Snapshot{}, err
	}
	return all.Snapshot(time.Now(), p), nil
}

// defaultNamespace returns the namespace of Services that are named without a
// namespace.
func (s *objectSource) defaultNamespace() (string, error) {
	namespace, _, err := s.access.Namespace()
	if err != nil && len(s.dumps) > 0 {
		return corev1.NamespaceDefault, nil // a dump needs no kubeconfig
	}
	if err != nil {
		return "", kubeconfigError(err)
	}
	return namespace, nil
}

// kubeconfigError adds the operation to the error of client-go. Its error for a missing
// kubeconfig names only an environment variable that this command does not read.
func kubeconfigError(err error) error {
	if clientcmd.IsEmptyConfig(err) {
		return errors.New("read the kubeconfig: not found; set --kubeconfig or the environment variable KUBECONFIG")
	}
	return fmt.Errorf("read the kubeconfig: %w", err)
}

// readRequest returns the manifests and deletions that plan previews.
func (s *objectSource) readRequest(cmd *cobra.Command, files, deletions []string) (r plan.Request, err error) {
	namespace, err := s.defaultNamespace()
	if err != nil {
		return r, err
	}
	for _, text := range deletions {
		d, err := plan.ParseDeletion(text, namespace)
		if err != nil {
			return r, err
		}
		r.Deletions = append(r.Deletions, d)
	}
	r.Manifests, err = objects.FromManifests(files, cmd.InOrStdin(), namespace)
	return r, err
}

// policyFlags adds the flags of the controller that its decisions depend on. The
// returned function validates and returns their values.
func policyFlags(cmd *cobra.Command) func() (providers.Policy, error) {
	mode, classless := string(providers.Auto), true
	cmd.Flags().StringVar(&mode, "provider", mode, "Value of the controller's flag --provider.")
	cmd.Flags().BoolVar(&classless, "serve-services-without-class", classless,
		"Value of the controller's flag --serve-services-without-class.")
	return func() (p providers.Policy, err error) {
		if !slices.Contains(providers.Modes, providers.Mode(mode)) {
			return p, fmt.Errorf("--provider=%q: must be one of %q", mode, providers.Modes)
		}
		// The flag of the controller names what is served; the policy names the
		// restriction.
		return providers.Policy{Mode: providers.Mode(mode), ClassedOnly: !classless}, nil
	}
}

// outputFlag adds the flag -o, which is validated before the command runs. The
// returned function prints a result in the format.
func outputFlag(cmd *cobra.Command) (print func(output.Result) error) {
	format := output.Formats[0]
	cmd.Flags().StringVarP(&format, "output", "o", format, "Output format: "+strings.Join(output.Formats, " or ")+".")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(output.Formats, format) {
			return fmt.Errorf("--output=%q: must be one of %q", format, output.Formats)
		}
		return nil
	}
	return func(r output.Result) error { return output.Print(cmd.OutOrStdout(), format, r) }
}
