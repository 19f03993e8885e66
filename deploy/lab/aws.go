package lab

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AWS is an emulated Amazon Web Services on a machine of the LAN: a moto server
// with a VPC in which the nodes are instances. It emulates the APIs only; its load
// balancers forward no packets.
type AWS struct {
	Host *Host

	server           *Process
	nft              string
	vpc              string
	subnets          map[string]string // by zone
	nodeSG           string
	initialResources []string // result of listResources for the empty VPC
}

// Names of the cluster and of the region in the emulated AWS.
const (
	ClusterName = "lab"
	Region      = "eu-central-1"
)

var (
	awsAddr = netip.MustParseAddr("10.13.242.2")
	zones   = []string{Region + "a", Region + "b", Region + "c"}
)

// awsEnv returns the environment variables that make a program use the emulated
// AWS only, irrespective of the user's configuration. It does not set a region.
func awsEnv() map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL":            "http://" + netip.AddrPortFrom(awsAddr, awsPort).String(),
		"AWS_ACCESS_KEY_ID":           "lab",
		"AWS_SECRET_ACCESS_KEY":       "lab",
		"AWS_EC2_METADATA_DISABLED":   "true",
		"AWS_CONFIG_FILE":             "/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	}
}

const (
	awsName = "aws" // of the machine
	awsPort = 5000
)

// startAWS starts the emulator and creates the network of the account.
func (c *Cluster) startAWS(ctx context.Context) error {
	moto, err := c.bin.findProgram(Moto.program)
	if err != nil {
		return err
	}
	a := &AWS{subnets: map[string]string{}}
	if a.nft, err = c.bin.findProgram(NFT.program); err != nil {
		return err
	}
	if a.Host, err = newHost(awsName, c.controlPlane.env); err != nil {
		return err
	}
	a.Host.Addr, a.Host.Addr6 = awsAddr, pairedIPv6(awsAddr)
	if err := connectBridge(c.Network.lan, a.Host, "eth0"); err != nil {
		return err
	}
	// No gateway: the emulator looks up its own name, which fails immediately only
	// if no name server is reachable.
	if err := a.Host.configureLink("eth0", netip.PrefixFrom(awsAddr, lanPrefix.Bits()), netip.Addr{}); err != nil {
		return err
	}
	if a.server, err = a.Host.Start(awsName, moto, nil, "-H", awsAddr.String(), "-p", fmt.Sprint(awsPort)); err != nil {
		return err
	}
	err = Wait(ctx, "the emulated AWS answers", func() error {
		if a.server.HasEnded() {
			return Permanent(fmt.Errorf("%s ended: %w", Moto.program, a.server.err))
		}
		_, err := a.Host.Get(ctx, awsEnv()["AWS_ENDPOINT_URL"]+"/moto-api/")
		return err
	})
	if err != nil {
		return err
	}
	if err := a.createVPC(ctx); err != nil {
		return err
	}
	a.initialResources, err = a.listResources(ctx)
	c.AWS = a
	return err
}

// createVPC creates the resources that a cluster installer would create: a VPC with
// an internet gateway and a subnet in each zone, and a security group of the nodes.
func (a *AWS) createVPC(ctx context.Context) (err error) {
	create := func(id *string, action string, parameters ...string) {
		var answer struct {
			VPC     string `xml:"vpc>vpcId"`
			Subnet  string `xml:"subnet>subnetId"`
			Gateway string `xml:"internetGateway>internetGatewayId"`
			Table   string `xml:"routeTable>routeTableId"`
			Group   string `xml:"groupId"`
		}
		if err == nil {
			err = a.callAPI(ctx, ec2, action, &answer, parameters...)
			*id = answer.VPC + answer.Subnet + answer.Gateway + answer.Table + answer.Group
		}
	}
	var gateway, table, none string
	create(&a.vpc, "CreateVpc", "CidrBlock=10.0.0.0/16")
	create(&gateway, "CreateInternetGateway")
	create(&none, "AttachInternetGateway", "VpcId="+a.vpc, "InternetGatewayId="+gateway)
	create(&table, "CreateRouteTable", "VpcId="+a.vpc)
	create(&none, "CreateRoute", "RouteTableId="+table, "DestinationCidrBlock=0.0.0.0/0", "GatewayId="+gateway)
	for i, zone := range zones {
		var subnet string
		create(&subnet, "CreateSubnet", "VpcId="+a.vpc, "AvailabilityZone="+zone, fmt.Sprintf("CidrBlock=10.0.%d.0/24", i))
		create(&none, "AssociateRouteTable", "RouteTableId="+table, "SubnetId="+subnet)
		create(&none, "CreateTags", append(tagParameters("kubernetes.io/cluster/"+ClusterName+"=owned", "kubernetes.io/role/elb=1",
			"kubernetes.io/role/internal-elb=1"),
			"ResourceId.1="+subnet)...)
		a.subnets[zone] = subnet
	}
	create(&a.nodeSG, "CreateSecurityGroup", "VpcId="+a.vpc, "GroupName=nodes", "GroupDescription=nodes of the cluster "+ClusterName)
	create(&none, "CreateTags", append(tagParameters("kubernetes.io/cluster/"+ClusterName+"=owned"), "ResourceId.1="+a.nodeSG)...)
	return err
}

// tagParameters returns the parameters for tags in the form "key=value".
func tagParameters(all ...string) (parameters []string) {
	for i, tag := range all {
		key, value, _ := strings.Cut(tag, "=")
		parameters = append(parameters, fmt.Sprintf("Tag.%d.Key=%s", i+1, key), fmt.Sprintf("Tag.%d.Value=%s", i+1, value))
	}
	return parameters
}

// LaunchInstance launches an instance for a node and returns its zone and ID.
// Instances are distributed over the zones by i.
func (a *AWS) LaunchInstance(ctx context.Context, i int) (zone, id string, err error) {
	zone = zones[i%len(zones)]
	var answer struct {
		ID string `xml:"instancesSet>item>instanceId"`
	}
	err = a.callAPI(ctx, ec2, "RunInstances", &answer, "ImageId=ami-12345678", "MinCount=1", "MaxCount=1",
		"SubnetId="+a.subnets[zone], "SecurityGroupId.1="+a.nodeSG)
	return zone, answer.ID, err
}

// JoinNode launches an instance and creates a ready Node for it, without a machine of
// the lab. It returns the ID of the instance.
func (c *Cluster) JoinNode(ctx context.Context, name string, i int) (id string, err error) {
	zone, id, err := c.AWS.LaunchInstance(ctx, i)
	if err != nil {
		return "", err
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	setInstance(node, zone, id)
	if node, err = c.API.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("create node %s: %w", name, err)
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err := c.API.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return "", fmt.Errorf("make node %s ready: %w", name, err)
	}
	return id, nil
}

// setInstance sets the provider ID and the zone of a Node, as the
// cloud-controller-manager of AWS does.
func setInstance(node *corev1.Node, zone, id string) {
	node.Spec.ProviderID = "aws:///" + zone + "/" + id
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	node.Labels[corev1.LabelTopologyZone] = zone
}

// configureController adds flags and environment variables to the controller's
// manifest, as an administrator would.
func (c *Cluster) configureController(container *corev1.Container) {
	container.Args = append(container.Args, c.options.Flags...)
	if c.AWS == nil {
		return
	}
	container.Args = append(container.Args, "--cluster-name="+ClusterName)
	env := awsEnv()
	for _, name := range slices.Sorted(maps.Keys(env)) {
		container.Env = append(container.Env, corev1.EnvVar{Name: name, Value: env[name]})
	}
}

// SetReachable starts or ends an outage. During an outage all connections to AWS are
// refused or reset. AWS keeps its state.
func (a *AWS) SetReachable(ctx context.Context, reachable bool) error {
	command := fmt.Sprintf("add table inet outage; add chain inet outage in { type filter hook input priority 0; }; "+
		"add rule inet outage in iifname eth0 tcp dport %d reject with tcp reset", awsPort)
	if reachable {
		command = "delete table inet outage"
	}
	_, err := a.Host.Run(ctx, a.nft, command)
	return err
}
