package aws

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// realSizes are the limits outside of tests.
var realSizes map[string]bucketSize

// TestMain isolates the tests from the developer's AWS configuration, and
// removes the rate limits.
func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			panicOnError(os.Unsetenv(name))
		}
	}
	panicOnError(os.Setenv("AWS_EC2_METADATA_DISABLED", "true"))
	panicOnError(os.Setenv("AWS_CONFIG_FILE", os.DevNull))
	panicOnError(os.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull))
	realSizes = maps.Clone(bucketSizes)
	for class, size := range bucketSizes { // the accounts of tests are not shared
		size.rate *= 100
		bucketSizes[class] = size
	}
	code := m.Run()
	if code == 0 {
		// The called actions are complete when all tests have run.
		if err := comparePolicy(flag.Lookup("test.run").Value.String() == ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func panicOnError(err error) {
	if err != nil {
		panic(err)
	}
}

// account is an AWS account with the nodes of a cluster: on moto's server or on
// the fake. The embedded callRecorder belongs to the provider under test; the
// clients here are the test's own, whose calls are neither counted nor failed.
type account struct {
	*callRecorder
	name      string // "moto" or "fake"
	cluster   string
	region    string
	vpc       string
	subnets   []string // public, one in each zone, with the role tags
	nodeGroup string   // the security group of the nodes
	instances []string
	nodes     []*corev1.Node // of the instances, in the same order
	ec2       *ec2.Client
	elb       *elb.Client
	fake      *fakeAWS // nil on moto
	id        string
	under     []func(*config.LoadOptions) error
}

// zones are the availability zones of the subnets.
var zones = []string{"eu-west-1a", "eu-west-1b", "eu-west-1c"}

// eachKind runs a test with moto and with the fake.
func eachKind(t *testing.T, test func(t *testing.T, account func(t *testing.T) *account)) {
	t.Helper()
	t.Run("moto", func(t *testing.T) { test(t, motoAccount) })
	t.Run("fake", func(t *testing.T) { test(t, fakeAccount) })
}

// eachAccount runs a test on moto and on the fake, each time in a new account
// with three nodes.
func eachAccount(t *testing.T, test func(t *testing.T, a *account)) {
	t.Helper()
	eachKind(t, func(t *testing.T, account func(t *testing.T) *account) { test(t, account(t)) })
}

// accounts counts the account numbers, which have twelve digits.
var accounts atomic.Int64

func newAccount(t *testing.T, name string) *account {
	t.Helper()
	return &account{
		callRecorder: &callRecorder{}, name: name, cluster: "prod", region: "eu-west-1",
		id: fmt.Sprint(100000000000 + accounts.Add(1)),
	}
}

func motoAccount(t *testing.T) *account {
	t.Helper()
	server := moto(t)
	a := newAccount(t, "moto")
	a.under = []func(*config.LoadOptions) error{config.WithBaseEndpoint(a.startProxy(t, server, a.id))}
	a.seedAccount(t, config.WithBaseEndpoint(server.String()),
		config.WithAPIOptions([]func(*middleware.Stack) error{smithyhttp.AddHeaderValue("x-moto-account-id", a.id)}))
	return a
}

func fakeAccount(t *testing.T) *account {
	t.Helper()
	a := newAccount(t, "fake")
	a.fake = newFake(t, a.id, a.region)
	a.under = []func(*config.LoadOptions) error{a.fake.loadOptions(a.callRecorder)}
	a.seedAccount(t, a.fake.loadOptions(nil))
	return a
}

var identity = config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""))

// loadOptions returns Options.Load of the provider under test: the account, retries
// with short delays, and no region.
func (a *account) loadOptions() []func(*config.LoadOptions) error {
	retryer := config.WithRetryer(func() aws.Retryer { return newRetryer(time.Millisecond) })
	return append([]func(*config.LoadOptions) error{identity, retryer}, a.under...)
}

// get makes a call of the test's own, which must succeed.
func get[In, Out, Options any](t *testing.T, do func(context.Context, *In, ...func(*Options)) (*Out, error), in *In) *Out {
	t.Helper()
	out, err := do(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// seedAccount creates the clients, the network and three nodes.
func (a *account) seedAccount(t *testing.T, load ...func(*config.LoadOptions) error) {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(context.Background(), append(load, identity, config.WithRegion(a.region))...)
	if err != nil {
		t.Fatal(err)
	}
	a.ec2, a.elb = ec2.NewFromConfig(cfg), elb.NewFromConfig(cfg)

	a.vpc = *get(t, a.ec2.CreateVpc, &ec2.CreateVpcInput{CidrBlock: new("10.0.0.0/16")}).Vpc.VpcId
	gateway := get(t, a.ec2.CreateInternetGateway, &ec2.CreateInternetGatewayInput{}).InternetGateway.InternetGatewayId
	get(t, a.ec2.AttachInternetGateway, &ec2.AttachInternetGatewayInput{InternetGatewayId: gateway, VpcId: &a.vpc})
	inVPC := []ec2types.Filter{{Name: new("vpc-id"), Values: []string{a.vpc}}}
	table := get(t, a.ec2.DescribeRouteTables, &ec2.DescribeRouteTablesInput{Filters: inVPC}).RouteTables[0].RouteTableId
	get(t, a.ec2.CreateRoute, &ec2.CreateRouteInput{RouteTableId: table, DestinationCidrBlock: new("0.0.0.0/0"), GatewayId: gateway})
	for i, zone := range zones {
		a.subnets = append(a.subnets, a.addSubnet(t, zone, fmt.Sprintf("10.0.%d.0/24", i), map[string]string{
			"kubernetes.io/role/elb": "1", "kubernetes.io/role/internal-elb": "1",
		}))
	}
	a.nodeGroup = *get(t, a.ec2.CreateSecurityGroup, &ec2.CreateSecurityGroupInput{
		VpcId: &a.vpc, GroupName: new("nodes"), Description: new("nodes"),
		TagSpecifications: tagSpecifications(
			ec2types.ResourceTypeSecurityGroup, map[string]string{"kubernetes.io/cluster/" + a.cluster: "owned"},
		),
	}).GroupId
	for range zones {
		a.addNode(t)
	}
}

func tagSpecifications(kind ec2types.ResourceType, tags map[string]string) []ec2types.TagSpecification {
	s := ec2types.TagSpecification{ResourceType: kind}
	for k, v := range tags {
		s.Tags = append(s.Tags, ec2types.Tag{Key: &k, Value: &v})
	}
	return []ec2types.TagSpecification{s}
}

// addSubnet creates another subnet of the VPC, with the cluster's tag and an
// IPv6 prefix.
func (a *account) addSubnet(t *testing.T, zone, cidr string, tags map[string]string) string {
	t.Helper()
	tags["kubernetes.io/cluster/"+a.cluster] = "owned"
	return *get(t, a.ec2.CreateSubnet, &ec2.CreateSubnetInput{
		VpcId: &a.vpc, AvailabilityZone: &zone, CidrBlock: &cidr, TagSpecifications: tagSpecifications(ec2types.ResourceTypeSubnet, tags),
	}).Subnet.SubnetId
}

// addNode starts another instance; the zones alternate.
func (a *account) addNode(t *testing.T) *corev1.Node {
	t.Helper()
	n := len(a.instances)
	id := *get(t, a.ec2.RunInstances, &ec2.RunInstancesInput{
		ImageId: new("ami-12345678"), InstanceType: ec2types.InstanceTypeT3Micro, MinCount: new(int32(1)), MaxCount: new(int32(1)),
		SubnetId: &a.subnets[n%len(zones)], SecurityGroupIds: []string{a.nodeGroup},
	}).Instances[0].InstanceId
	a.instances = append(a.instances, id)
	a.nodes = append(a.nodes, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", n)},
		Spec:       corev1.NodeSpec{ProviderID: "aws:///" + zones[n%len(zones)] + "/" + id},
	})
	return a.nodes[n]
}

// terminate terminates an instance; its node stays.
func (a *account) terminate(t *testing.T, instance string) {
	t.Helper()
	get(t, a.ec2.TerminateInstances, &ec2.TerminateInstancesInput{InstanceIds: []string{instance}})
}

// setTag changes a tag of a subnet, instance or security group; "" removes it.
func (a *account) setTag(t *testing.T, id, key, value string) {
	t.Helper()
	if value == "" {
		get(t, a.ec2.DeleteTags, &ec2.DeleteTagsInput{Resources: []string{id}, Tags: []ec2types.Tag{{Key: &key}}})
		return
	}
	get(t, a.ec2.CreateTags, &ec2.CreateTagsInput{Resources: []string{id}, Tags: []ec2types.Tag{{Key: &key, Value: &value}}})
}

// certificate creates a certificate and returns its ARN.
func (a *account) certificate(t *testing.T, domain string) string {
	t.Helper()
	if a.fake == nil {
		return motoCertificate(t, a.id, a.region, domain)
	}
	a.fake.mu.Lock()
	defer a.fake.mu.Unlock()
	arn := "arn:aws:acm:" + a.region + ":" + a.id + ":certificate/" + domain
	a.fake.certificates[arn] = true
	return arn
}

// errorCode returns the code of an AWS error.
func errorCode(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

// sorted returns a sorted copy.
func sorted(all []string) []string { return slices.Sorted(slices.Values(all)) }
