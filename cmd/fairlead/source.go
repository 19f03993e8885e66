package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// source is where a command looks, by its flags: a cluster, or files.
type source struct {
	access clientcmd.ClientConfig
	from   []string
	policy func([]*corev1.Service) (providers.Policy, error)
}

// sourceFlags adds the flags that say where to look, and as which controller.
func sourceFlags(cmd *cobra.Command, access clientcmd.ClientConfig) *source {
	s := fromFlag(cmd, access)
	s.policy = policyFlags(cmd)
	return s
}

func fromFlag(cmd *cobra.Command, access clientcmd.ClientConfig) *source {
	s := &source{access: access}
	cmd.Flags().StringArrayVar(&s.from, "from", nil, "Look at this dump (fairlead dump, or kubectl get -o yaml or json) instead of a cluster; - is standard input. May be repeated.")
	return s
}

// look reads the world.
func (s *source) look(cmd *cobra.Command) (w world, err error) {
	i, err := s.inventory(cmd)
	if err != nil {
		return w, err
	}
	w = i.world(time.Now())
	w.cluster.Policy, err = s.policy(w.cluster.Services)
	return w, err
}

// inventory reads all objects, and writes to stderr what is to be known about
// where they come from.
func (s *source) inventory(cmd *cobra.Command) (*inventory, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
	defer cancel()
	i, notes, err := s.read(ctx, cmd.InOrStdin())
	if err != nil {
		return nil, err
	}
	for _, n := range notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: %s\n", n)
	}
	return i, nil
}

func (s *source) read(ctx context.Context, stdin io.Reader) (*inventory, []string, error) {
	if len(s.from) > 0 {
		return readDumps(s.from, stdin)
	}
	restConfig, err := s.access.ClientConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return readCluster(ctx, restConfig)
}

// namespace is the one for names without any.
func (s *source) namespace() (string, error) {
	namespace, _, err := s.access.Namespace()
	if err != nil && len(s.from) > 0 {
		return corev1.NamespaceDefault, nil // the dump is not of the kubeconfig's cluster anyway
	}
	if err != nil {
		return "", fmt.Errorf("read the kubeconfig: %w", err)
	}
	return namespace, nil
}

// unread says what was in the dump and is not needed.
func (r *reader) unread() []string {
	if len(r.skipped) == 0 {
		return nil
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(r.skipped)) {
		kinds = append(kinds, fmt.Sprintf("%s (%d)", kind, r.skipped[kind]))
	}
	return []string{"nothing depends on these objects of the dump: " + strings.Join(kinds, ", ")}
}

// gaps says what a dump lacks, and what comes of it.
func (i *inventory) gaps() (notes []string) {
	selects := slices.ContainsFunc(i.Pools, func(p *v1alpha1.IPAddressPool) bool {
		return p.Spec.ServiceAllocation != nil && len(p.Spec.ServiceAllocation.NamespaceSelectors) > 0
	})
	local := slices.ContainsFunc(i.services, func(svc *corev1.Service) bool {
		return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	})
	for _, gap := range []struct {
		lacking bool
		text    string
	}{
		{len(i.services) == 0, "no Services: there is nothing to decide about (kubectl get services -A)"},
		{len(i.nodes) == 0, "no Nodes: which provider serves Services without a class is undecided, no node can announce anything, and addresses of nodes are not known to be reserved (kubectl get nodes)"},
		{len(i.Pools) == 0, "no IPAddressPools: no Service can get an address (kubectl get ipaddresspools)"},
		{len(i.L2Advertisements)+len(i.BGPAdvertisements) == 0, "no L2Advertisements and no BGPAdvertisements: nothing is announced (kubectl get l2advertisements,bgpadvertisements)"},
		{len(i.speakers) == 0, "no Speakers: what nodes announce and how their BGP sessions are is not known (kubectl get speakers)"},
		{local && len(i.slices) == 0, "no EndpointSlices: Services with externalTrafficPolicy Local seem to have no endpoints (kubectl get endpointslices -A)"},
		{selects && len(i.namespaces) == 0, "no Namespaces, whose labels some pools select: what Services would newly get is not known (kubectl get namespaces)"},
		{len(i.cidrs) == 0, "no ServiceCIDRs: addresses of ClusterIPs are not known to be reserved (kubectl get servicecidrs; Kubernetes before 1.33 has none)"},
	} {
		if gap.lacking {
			notes = append(notes, "the dump holds "+gap.text)
		}
	}
	return notes
}
