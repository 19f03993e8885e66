// Command fairlead is the command line tool: it explains, with the code that
// the controller and the speakers run, why things are as they are. Installed as
// kubectl-fairlead it is a kubectl plugin.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/cmd/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		os.Exit(exit(err, os.Stderr))
	}
}

// exit is the status for an error, which is printed if nothing else has been.
func exit(err error, stderr io.Writer) int {
	switch {
	case errors.Is(err, errLoss):
		return 2
	case errors.Is(err, errFindings):
		return 1
	}
	fmt.Fprintf(stderr, "fairlead: %v\n", err)
	return 1
}

func command() *cobra.Command {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	var overrides clientcmd.ConfigOverrides
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &overrides)

	root := &cobra.Command{
		Use:               "fairlead",
		Short:             "Explain what Fairlead does with Services of type LoadBalancer, and why.",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&rules.ExplicitPath, "kubeconfig", "", "Path to the kubeconfig.")
	flags.StringVar(&overrides.CurrentContext, "context", "", "Context of the kubeconfig.")
	flags.StringVarP(&overrides.Context.Namespace, "namespace", "n", "", "Namespace of a Service that is named without one.")
	root.AddCommand(explainCommand(config), planCommand(config), doctorCommand(config), dumpCommand(config), &cobra.Command{
		Use:   "version",
		Short: "Print the version.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "fairlead", version.String())
			return err
		},
	})
	return root
}
