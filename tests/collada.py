"""A COLLADA file: the unit square with a picture."""

SQUARE = """<?xml version="1.0" encoding="utf-8"?>
<!-- made by hand -->
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
 <asset><unit meter="1"/><up_axis>Z_UP</up_axis></asset>
 <library_images><image id="i"><init_from>{picture}</init_from></image></library_images>
 <library_effects><effect id="e"><profile_COMMON>
  <newparam sid="s"><surface type="2D"><init_from>i</init_from></surface></newparam>
  <newparam sid="p"><sampler2D><source>s</source></sampler2D></newparam>
  <technique sid="t"><lambert><diffuse><texture texture="p" texcoord="UV"/></diffuse></lambert></technique>
 </profile_COMMON></effect></library_effects>
 <library_materials><material id="m"><instance_effect url="#e"/></material></library_materials>
 <library_geometries><geometry id="g"><mesh>
  <source id="x"><float_array id="xa" count="12">0 0 0 1 0 0 1 1 0 0 1 0</float_array><technique_common>
   <accessor source="#xa" count="4" stride="3"><param name="X" type="float"/><param name="Y" type="float"/><param name="Z" type="float"/></accessor>
  </technique_common></source>
  <source id="u"><float_array id="ua" count="8">0 0 1 0 1 1 0 1</float_array><technique_common>
   <accessor source="#ua" count="4" stride="2"><param name="S" type="float"/><param name="T" type="float"/></accessor>
  </technique_common></source>
  <vertices id="v"><input semantic="POSITION" source="#x"/></vertices>
  <triangles count="2" material="m"><input semantic="VERTEX" source="#v" offset="0"/>
   <input semantic="TEXCOORD" source="#u" offset="1" set="0"/><p>0 0 1 1 2 2 0 0 2 2 3 3</p></triangles>
 </mesh></geometry></library_geometries>
 <library_visual_scenes><visual_scene id="scene"><node><instance_geometry url="#g"><bind_material><technique_common>
  <instance_material symbol="m" target="#m"/></technique_common></bind_material></instance_geometry></node></visual_scene></library_visual_scenes>
 <scene><instance_visual_scene url="#scene"/></scene>
</COLLADA>
"""
