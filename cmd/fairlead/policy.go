package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// policyFlags adds the flags of the controller that its decisions depend on.
// What they come to is known once they are parsed; whether AWS is configured
// there is no flag for: the controller has said so on the Services.
func policyFlags(cmd *cobra.Command) func([]*corev1.Service) (providers.Policy, error) {
	mode, classless := string(providers.Auto), true
	cmd.Flags().StringVar(&mode, "provider", mode, "The controller's --provider.")
	cmd.Flags().BoolVar(&classless, "serve-services-without-class", classless, "The controller's --serve-services-without-class.")
	return func(services []*corev1.Service) (p providers.Policy, err error) {
		if !slices.Contains(providers.Modes, providers.Mode(mode)) {
			return p, fmt.Errorf("--provider=%q: must be one of %q", mode, providers.Modes)
		}
		return providers.Policy{Mode: providers.Mode(mode), ClassedOnly: !classless, AWSLacks: reported(services, v1alpha1.CloudNotConfigured)}, nil
	}
}

// reported is what the controller says on the Services for which it gives the reason.
func reported(services []*corev1.Service, reason v1alpha1.Reason) string {
	for _, svc := range services {
		if c := apimeta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionProvisioned); c != nil && c.Reason == string(reason) {
			return c.Message
		}
	}
	return ""
}
