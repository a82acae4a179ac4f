"""The body of the arm: its lengths and masses, its joints, and its model in MuJoCo's XML.

The arm has the size of an SO-101: the shoulder stands 0.11 m above the table and 0.03 m before the axis of the base,
the upper arm is 0.116 m long, the forearm 0.135 m, and the wrist with the gripper 0.16 m.

All joints are zero when the arm stands upright. Shoulder, elbow and wrist bend forward for positive angles. Nothing
collides: the table and the arm's own parts do not stop it.
"""

import numpy as np

JOINTS = ("base", "shoulder", "elbow", "wrist_flex", "wrist_roll")
"""The joints that place the fingertip, in the order of every array. The gripper is the sixth."""
MIDDLE = np.array([0.0, 0.0, 1.1, 0.5, 0.0])
"""`(5,)`: the middle of the working range of each joint, rad. The base turns all the way round."""
RANGE = 0.5
"""Half of the working range of each joint but the base, rad."""
MOVE = 0.6
"""The longest move of a joint in one control period, rad."""
PERIOD = 0.8
"""Length of one control period, s. The arm takes one move in it, and comes to rest."""
STEPS = 64
"""Steps of the integrator in one control period."""
RAMP = 32
"""Steps in which a command goes over from the previous one. In the others it rests."""

_JOINT = '<joint name="{name}" type="hinge" axis="{axis}" armature="0.02" damping="1" frictionloss="0.1"/>'
_AXES = {"base": "0 0 1", "shoulder": "0 1 0", "elbow": "0 1 0", "wrist_flex": "0 1 0", "wrist_roll": "0 0 1"}


def mjcf() -> str:
    """Return the model in MuJoCo's XML.

    MuJoCo has no backlash. Two actuators drive each joint: a servo of stiffness k, and one of stiffness -k whose torque
    is limited to k times half the backlash. Their sum is a servo without torque in the dead zone of the gear, and with
    stiffness k outside it. `ArmSimulator` writes the numbers of a task.
    """
    joints = {name: _JOINT.format(name=name, axis=axis) for name, axis in _AXES.items()}
    servos = "\n".join(f'<position name="{name}" joint="{name}" kp="30"/>' for name in JOINTS)
    gears = "\n".join(
        f'<general name="{name}_gear" joint="{name}" biastype="affine" gainprm="-30" biasprm="0 30 0" '
        'forcelimited="true" forcerange="-0.1 0.1"/>'
        for name in JOINTS
    )
    return f"""
<mujoco model="arm">
  <option timestep="{PERIOD / STEPS}" integrator="implicitfast">
    <flag contact="disable"/>
  </option>
  <visual><global offwidth="1280" offheight="960"/><headlight ambient="0.4 0.4 0.4" diffuse="0.6 0.6 0.6"/></visual>
  <default><geom rgba="0.95 0.75 0.2 1"/></default>
  <worldbody>
    <light pos="0.4 0 2" dir="-0.2 0 -1" diffuse="0.3 0.3 0.3"/>
    <geom type="plane" size="0.6 0.6 0.1" rgba="0.75 0.78 0.8 1"/>
    <geom type="cylinder" size="0.045 0.03" pos="0 0 0.03" rgba="0.25 0.28 0.32 1"/>
    <site name="target" size="0.012" rgba="0.9 0.2 0.2 0"/>
    <camera name="beside" pos="0 -0.75 0.4" xyaxes="1 0 0 0 0.45 0.9" fovy="48"/>
    <body name="turret" pos="0 0 0.06">
      {joints["base"]}
      <inertial pos="0.01 0 0.02" mass="0.12" diaginertia="1e-4 1e-4 1e-4"/>
      <geom type="capsule" fromto="0 0 0 0.03 0 0.05" size="0.026" rgba="0.25 0.28 0.32 1"/>
      <body name="upper_arm" pos="0.03 0 0.05">
        {joints["shoulder"]}
        <geom type="capsule" fromto="0 0 0 0 0 0.116" size="0.018" mass="0.15"/>
        <body name="forearm" pos="0 0 0.116">
          {joints["elbow"]}
          <geom type="capsule" fromto="0 0 0 0 0 0.135" size="0.016" mass="0.12"/>
          <body name="wrist" pos="0 0 0.135">
            {joints["wrist_flex"]}
            <geom type="capsule" fromto="0 0 0 0 0 0.06" size="0.016" mass="0.08" rgba="0.25 0.28 0.32 1"/>
            <body name="gripper" pos="0 0 0.06">
              {joints["wrist_roll"]}
              <geom type="capsule" fromto="0.015 0 0.01 0.02 0 0.1" size="0.008" mass="0.08"/>
              <site name="fingertip" pos="0.02 0 0.1" size="0.006" rgba="0.1 0.5 0.9 1"/>
              <body name="payload" pos="0 0 0.08">
                <inertial pos="0 0 0" mass="1" diaginertia="1e-4 1e-4 1e-4"/>
                <geom type="box" size="0.012 0.012 0.012" mass="0" rgba="0.3 0.65 0.4 1"/>
              </body>
              <body name="jaw" pos="-0.015 0 0.02">
                <joint name="gripper" type="hinge" axis="0 -1 0" armature="0.02" damping="0.5"/>
                <geom type="capsule" fromto="0 0 0 0 0 0.08" size="0.007" mass="0.03"/>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    {servos}
    <position name="gripper" joint="gripper" kp="10"/>
    {gears}
  </actuator>
  <sensor><framepos name="fingertip" objtype="site" objname="fingertip"/></sensor>
</mujoco>
"""
